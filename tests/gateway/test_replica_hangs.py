"""Replicas of a pool that hang: whole servers, and engines behind servers that say that they are ready."""

import pytest
from scripted_replicas import fleet, hold, run, until

from gateway.triton.client import Health
from gateway.triton.replicas import pool


def test_a_silent_replica_is_left_out_and_others_answer_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            silent = started.replicas["a"]
            waiting = await hold(started, "a")
            silent.health_said = Health.SILENT
            await started.probed_again("b")  # and so `a` has been asked, and says nothing
            started.now_s += 2.0
            await started.probed_again("b")
            silent.silence_ends.set()
            assert await waiting == "b"
            assert started.serving() == {"b"}
            assert silent.cancelled == 1
            silent.health_said = Health.READY
            silent.open_gate.set()
            started.now_s += 1.0
            await until(lambda: started.serving() == {"a", "b"})

    run(scenario)


def test_silence_of_all_is_no_fault_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the gateway itself, or the network, that is slow: leaving everybody out would only make it worse."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            started.now_s += 1.0
            await started.probed_again("a", "b")
            for replica in started.replicas.values():
                replica.health_said = Health.SILENT
                replica.silence_ends.set()
            await started.probed_again("a", "b")
            started.now_s += 1.0
            await started.probed_again("a", "b")
            assert started.serving() == {"a", "b"}

    run(scenario)


def test_a_replica_is_stuck_where_it_answers_nothing_and_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server says ready, its engine hangs."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = await hold(started, "a")
            started.now_s += pool.STUCK_AFTER_S + 0.1
            await started.probed_again("a", "b")
            assert not waiting.done()
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            assert await waiting == "b"
            assert started.serving() == {"b"}

    run(scenario)


def test_answers_that_take_long_everywhere_make_nobody_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            slow = await hold(started, "b")
            started.now_s += 10.0
            started.replicas["b"].open_gate.set()
            assert await slow == "b"
            waiting = await hold(started, "a")
            started.now_s += 20.0
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            await started.probed_again("a", "b")
            assert not waiting.done()
            started.now_s += 10.1
            assert await waiting == "b"

    run(scenario)


def test_who_waits_for_a_load_makes_nobody_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = await hold(started, "a", model_id="google/other")
            started.now_s += 50.0
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            await started.probed_again("a", "b")
            assert started.serving() == {"a", "b"}
            assert not waiting.done()
            waiting.cancel()

    run(scenario)
