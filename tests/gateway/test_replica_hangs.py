"""Replicas of a pool that hang: whole servers, and engines behind servers that say that they are ready."""

import asyncio

import pytest
from scripted_replicas import HELD, Fleet, fleet, hold, run, until

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


async def hold_two(started: Fleet, address: str) -> list[asyncio.Task[str]]:
    """Two requests that this replica has, the second one sent later."""
    first = await hold(started, address)
    started.now_s += pool.LATER_S
    second = asyncio.create_task(started.ask(started.pictures_of(address)[0], request_id=HELD))
    await until(lambda: started.replicas[address].asked == 2)
    return [first, second]


def test_a_replica_is_stuck_where_it_answers_nothing_and_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server says ready, its engine hangs."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = await hold_two(started, "a")
            started.now_s += pool.STUCK_AFTER_S + 0.1
            await started.probed_again("a", "b")
            assert not any(task.done() for task in waiting)
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            assert await asyncio.gather(*waiting) == ["b", "b"]
            assert started.serving() == {"b"}

    run(scenario)


def test_a_long_request_makes_nobody_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica was sent nothing after it that waits as long: nothing tells a long answer from one that hangs."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = await hold(started, "a")
            started.now_s += 50.0
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            await started.probed_again("a", "b")
            assert started.serving() == {"a", "b"}
            started.replicas["a"].open_gate.set()
            assert await waiting == "a"

    run(scenario)


def test_targets_of_one_prompt_make_nobody_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are sent within moments, and take equally long."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = [await hold(started, "a")]
            started.now_s += 0.1
            waiting.append(asyncio.create_task(started.ask(started.pictures_of("a")[0], request_id=HELD)))
            await until(lambda: started.replicas["a"].asked == 2)
            started.now_s += 50.0
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            await started.probed_again("a", "b")
            started.replicas["a"].open_gate.set()
            assert await asyncio.gather(*waiting) == ["a", "a"]

    run(scenario)


def test_a_request_is_given_up_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is long wherever it is asked: the second attempt has all of its time, and speaks against nobody."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = await hold_two(started, "a")
            started.now_s += pool.STUCK_AFTER_S + 0.1
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            started.replicas["b"].open_gate.clear()
            await until(lambda: started.replicas["b"].asked == 3)
            started.replicas["a"].open_gate.set()
            started.now_s += 50.0
            await until(lambda: started.serving() == {"a", "b"})
            assert await started.ask(started.pictures_of("a")[0]) == "a"
            await started.probed_again("a", "b")
            assert started.serving() == {"a", "b"}
            started.replicas["b"].health_said = Health.SILENT
            await started.probed_again("a")
            started.now_s += 1.0
            await started.probed_again("a")
            started.replicas["b"].silence_ends.set()
            await until(lambda: started.serving() == {"a"})
            started.replicas["b"].open_gate.set()
            assert await asyncio.gather(*waiting) == ["b", "b"]

    run(scenario)


def test_an_address_that_has_gone_is_judged_while_it_has_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = await hold_two(started, "a")
            started.pool.update(["b"])
            started.now_s += pool.STUCK_AFTER_S + 0.1
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            assert await asyncio.gather(*waiting) == ["b", "b"]
            await until(lambda: started.replicas["a"].closed)

    run(scenario)


def test_an_address_that_has_gone_silent_too_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting, silent = await hold(started, "a"), started.replicas["a"]
            silent.health_said = Health.SILENT
            probed = silent.probed
            started.pool.update(["b"])
            await until(lambda: silent.probed > probed)
            started.now_s += 2.0
            await started.probed_again("b")
            silent.silence_ends.set()
            assert await waiting == "b"
            await until(lambda: silent.closed)

    run(scenario)


def test_answers_that_take_long_everywhere_make_nobody_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            slow = await hold(started, "b")
            started.now_s += 10.0
            started.replicas["b"].open_gate.set()
            assert await slow == "b"
            waiting = await hold_two(started, "a")
            started.now_s += 20.0
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            await started.probed_again("a", "b")
            assert not any(task.done() for task in waiting)
            started.now_s += 10.1
            assert await asyncio.gather(*waiting) == ["b", "b"]

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


def test_how_long_a_load_takes_says_nothing_about_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            loading = await hold(started, "b", model_id="google/other")
            started.now_s += 50.0
            started.replicas["b"].open_gate.set()
            assert await loading == "b"
            waiting = await hold_two(started, "a")
            started.now_s += pool.STUCK_AFTER_S + 0.1
            assert await started.ask(started.pictures_of("b")[0]) == "b"
            assert await asyncio.gather(*waiting) == ["b", "b"]

    run(scenario)
