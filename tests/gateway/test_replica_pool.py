"""The pool of replicas: who serves, who is left out, and what is asked again."""

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest
from scripted_replicas import PICTURES, fleet, hold, lost, run, until

from gateway.errors import ApiError
from gateway.inputs.prompts import MAX_TARGETS
from gateway.triton.client import Health, ReplicaFault
from gateway.triton.replicas.retry_budget import FLOOR


def test_requests_are_spread_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b", "c") as started:
            answered = Counter([await started.ask(picture) for picture in PICTURES * 2])
            assert set(answered) == {"a", "b", "c"}
            assert {address: started.metric("picked_total", address) for address in answered} == answered
            assert [started.metric("outstanding", address) for address in "abc"] == [0, 0, 0]
            assert len({await started.ask(b"one") for _ in range(9)}) == 1

    run(scenario)


@pytest.mark.parametrize("health", [Health.NOT_READY, Health.UNREACHABLE])
def test_a_replica_that_is_not_ready_is_not_asked_until_it_is(monkeypatch: pytest.MonkeyPatch, health: Health) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b", b=health) as started:
            assert {await started.ask(picture) for picture in PICTURES} == {"a"}
            started.replicas["b"].health_said = Health.READY
            await until(lambda: started.serving() == {"a", "b"})
            assert {await started.ask(picture) for picture in PICTURES} == {"a", "b"}
            started.replicas["b"].health_said = health
            await until(lambda: started.serving() == {"a"})
            assert {await started.ask(picture) for picture in PICTURES} == {"a"}
            assert (await started.pool.version()).triton == "a"

    run(scenario)


def test_without_a_ready_replica_requests_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b", a=Health.NOT_READY, b=Health.UNREACHABLE) as started:
            assert not await started.pool.is_ready()
            with pytest.raises(ApiError) as refused:
                await started.ask()
            assert (refused.value.code, refused.value.status) == ("unavailable", 503)
            assert [replica.asked for replica in started.replicas.values()] == [0, 0]
            assert (await started.pool.version()).triton is None
            started.replicas["a"].health_said = Health.READY
            await until(lambda: started.serving() == {"a"})
            assert await started.pool.is_ready()

    run(scenario)


def test_a_lost_replica_costs_nobody_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: what it had is asked again, and it is left out until it is ready, and a while longer."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            started.replicas["a"].failure = lost()
            started.replicas["a"].open_gate.clear()
            asked = [asyncio.create_task(started.ask(picture)) for picture in PICTURES]
            await until(lambda: started.replicas["a"].asked > FLOOR and started.replicas["a"].asked < len(PICTURES))
            had = started.replicas["a"].asked
            started.replicas["a"].open_gate.set()
            assert await asyncio.gather(*asked) == ["b"] * len(PICTURES)
            assert started.metric("failed_total", "a") == had
            assert started.metric("ejected_total", "a") == 1
            await started.probed_again("a", "b")
            assert started.serving() == {"b"}  # it says that it is ready, and nobody believes it yet
            assert {await started.ask(picture) for picture in PICTURES} == {"b"}
            started.now_s += 1.0
            await until(lambda: started.serving() == {"a", "b"})

    run(scenario)


def test_a_replica_that_fails_again_and_again_is_left_out_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            started.replicas["a"].failure = lost()
            for left_out_s in (1.0, 2.0, 4.0):
                assert {await started.ask(picture) for picture in PICTURES} == {"b"}
                started.now_s += left_out_s - 0.1
                await started.probed_again("a", "b")
                assert started.serving() == {"b"}
                started.now_s += 0.1
                await until(lambda: started.serving() == {"a", "b"})
            started.replicas["a"].failure = None
            assert {await started.ask(picture) for picture in PICTURES} == {"a", "b"}
            started.replicas["a"].failure = lost()
            assert {await started.ask(picture) for picture in PICTURES} == {"b"}
            started.now_s += 1.0
            await until(lambda: started.serving() == {"a", "b"})

    run(scenario)


def test_the_targets_of_a_stream_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are requests of one id for one picture; a client that always sends the same id binds nothing."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b", "c") as started:
            replicas = started.replicas.values()
            for replica in replicas:
                replica.open_gate.clear()
            asked = [asyncio.create_task(started.ask(request_id="one")) for _ in range(MAX_TARGETS)]
            await until(lambda: sum(replica.asked for replica in replicas) == len(asked))
            assert sorted(replica.asked for replica in replicas) == [0, 0, MAX_TARGETS]
            asked += [asyncio.create_task(started.ask(request_id="one")) for _ in range(MAX_TARGETS)]
            await until(lambda: sum(replica.asked for replica in replicas) == len(asked))
            assert sorted(replica.asked for replica in replicas)[1] > 0
            for replica in replicas:
                replica.open_gate.set()
            await asyncio.gather(*asked)

    run(scenario)


def test_what_one_replica_refuses_another_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            started.replicas["a"].failure = ApiError("overloaded", "try again later")
            pictures = started.pictures_of("a")[:FLOOR]
            assert {await started.ask(picture) for picture in pictures} == {"b"}
            assert started.serving() == {"a", "b"}
            assert started.metric("failed_total", "a") == started.replicas["a"].asked > 0

    run(scenario)


@pytest.mark.parametrize("kind", [ApiError, ReplicaFault])
def test_a_replica_that_fails_on_everything_is_left_out(monkeypatch: pytest.MonkeyPatch, kind: type[ApiError]) -> None:
    """It fails at once, so it has nothing in hand: the least loaded one got all requests, and retries ran out."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            started.replicas["a"].failure = kind("internal", "the server's log has the cause")
            assert {await started.ask(picture) for picture in PICTURES * 5} == {"b"}
            assert started.replicas["a"].asked == 3
            assert started.serving() == {"b"}
            started.replicas["b"].failure = kind("internal", "the server's log has the cause")
            for picture in PICTURES[:9]:
                with pytest.raises(ApiError, match="log"):
                    await started.ask(picture)
            assert started.serving() == {"b"}

    run(scenario)


def test_a_request_that_fails_everywhere_leaves_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton itself fails on it, on both replicas: it is the request's doing."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            for replica in started.replicas.values():
                replica.failure = ReplicaFault("internal", "the model server failed on this request")
            with pytest.raises(ApiError, match="failed"):
                await started.ask()
            assert [replica.asked for replica in started.replicas.values()] == [1, 1]
            assert started.serving() == {"a", "b"}

    run(scenario)


def test_an_overload_is_not_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 requests that all are refused: a fifth of them, and a few, are asked again; none more than once."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b", "c") as started:
            for replica in started.replicas.values():
                replica.failure = ApiError("overloaded", "try again later")
            outcomes = await asyncio.gather(*(started.ask(PICTURES[0]) for _ in range(500)), return_exceptions=True)
            assert {error.code for error in outcomes if isinstance(error, ApiError)} == {"overloaded"}
            assert len(outcomes) == 500
            assert sum(replica.asked for replica in started.replicas.values()) == 500 + FLOOR + 100

    run(scenario)


@pytest.mark.parametrize("code", ["invalid_image", "deadline", "loading", "model_gated", "cancelled"])
def test_what_another_replica_would_say_too_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            for replica in started.replicas.values():
                replica.failure = ApiError(code, "why")
            with pytest.raises(ApiError, match="why"):
                await started.ask()
            assert sum(replica.asked for replica in started.replicas.values()) == 1
            assert started.serving() == {"a", "b"}
            assert [started.metric("failed_total", address) for address in "ab"] == [0, 0]

    run(scenario)


def test_a_request_is_asked_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b", "c") as started:
            for replica in started.replicas.values():
                replica.failure = lost()
            with pytest.raises(ApiError) as refused:
                await started.ask()
            assert refused.value.code == "unavailable"
            assert sum(replica.asked for replica in started.replicas.values()) == 2

    run(scenario)


def test_a_caller_that_goes_ends_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = await hold(started, "a")
            waiting.cancel()
            await until(lambda: started.replicas["a"].cancelled == 1)
            assert started.metric("outstanding", "a") == 0
            assert waiting.cancelled()

    run(scenario)


def test_a_failure_that_nobody_waits_for_is_seen_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else asyncio logs an exception that was never retrieved."""
    unseen: list[dict[str, Any]] = []
    ended = asyncio.Event()

    async def fail_when_cancelled(*_: Any, **__: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            raise lost()

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
        async with fleet(monkeypatch, "a") as started:
            monkeypatch.setattr(started.replicas["a"], "segment", fail_when_cancelled)
            waiting = asyncio.create_task(started.ask())
            await until(lambda: started.metric("outstanding", "a") == 1)
            await asyncio.sleep(0)
            waiting.cancel()
            await ended.wait()

    run(scenario)
    gc.collect()
    assert unseen == []


def test_replicas_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes answers what it has; then nothing is left of it."""

    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting = await hold(started, "a")
            started.pool.update(["b", "c"])
            assert started.pool.addresses == ("b", "c")
            await until(lambda: started.serving() == {"b", "c"})
            assert {await started.ask(picture) for picture in PICTURES} == {"b", "c"}
            assert not started.replicas["a"].closed
            started.replicas["a"].open_gate.set()
            assert await waiting == "a"
            await until(lambda: started.replicas["a"].closed)
            assert started.metric("picked_total", "a") is None

    run(scenario)


def test_an_address_that_comes_back_before_its_farewell_is_another_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            waiting, former = await hold(started, "a"), started.replicas["a"]
            started.pool.update(["b"])
            started.pool.update(["a", "b"])
            await until(lambda: started.serving() == {"a", "b"})
            former.open_gate.set()
            assert await waiting == "a"
            await until(lambda: former.closed)
            assert started.serving() == {"a", "b"}
            assert not started.replicas["a"].closed

    run(scenario)
