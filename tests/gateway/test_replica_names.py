"""Replicas behind a name: their addresses are looked up again and again."""

import asyncio
from ipaddress import ip_address
from typing import Any

import pytest
from scripted_replicas import fleet, lost, run, until

from gateway.triton.client import Health
from gateway.triton.replicas import following
from gateway.triton.replicas.addresses import ServiceName
from gateway.triton.replicas.following import follow, look_up

NAME = ServiceName("triton", 8001)


def test_a_name_is_looked_up_again_when_a_replica_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MIN_PAUSE_S", 0.0)
    answers: list[Any] = [OSError("no such name"), [], [ip_address("10.0.0.2"), ip_address("10.0.0.3")]]

    async def resolve(host: str, port: int) -> list[Any]:
        assert (host, port) == ("triton", 8001)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    async def scenario() -> None:
        async with fleet(monkeypatch, "10.0.0.1:8001", "10.0.0.2:8001") as started:
            task = asyncio.create_task(follow(NAME, resolve, started.pool.update, started.pool.failed))
            for left in (2, 1):
                started.pool.failed.set()
                await until(lambda left=left: len(answers) == left)  # type: ignore[misc]
                assert started.pool.addresses == ("10.0.0.1:8001", "10.0.0.2:8001")
            started.replicas["10.0.0.1:8001"].failure = lost()
            assert await started.ask(started.pictures_of("10.0.0.1:8001")[0]) == "10.0.0.2:8001"
            await until(lambda: started.pool.addresses == ("10.0.0.2:8001", "10.0.0.3:8001"))
            task.cancel()

    run(scenario)


def test_a_replica_that_stays_unwell_hurries_the_look_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with fleet(monkeypatch, "a", "b") as started:
            started.replicas["a"].health_said = Health.UNREACHABLE
            await until(lambda: started.serving() == {"b"})
            assert started.pool.failed.is_set()
            started.pool.failed.clear()
            await started.probed_again("a")
            assert not started.pool.failed.is_set()

    run(scenario)


def test_nothing_ends_the_following_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MIN_PAUSE_S", 0.0)
    failures: list[Exception] = [RuntimeError("a resolver's"), ValueError("another")]
    seen: list[list[str]] = []

    async def resolve(_host: str, _port: int) -> list[Any]:
        if failures:
            raise failures.pop()
        return [ip_address("10.0.0.1")]

    async def scenario() -> None:
        hurry = asyncio.Event()
        task = asyncio.create_task(follow(NAME, resolve, lambda addresses: seen.append(list(addresses)), hurry))
        while not seen and not task.done():
            hurry.set()
            await asyncio.sleep(0.001)
        task.cancel()

    run(scenario)
    assert seen[0] == ["10.0.0.1:8001"]


@pytest.mark.parametrize(
    ("found", "addresses"),
    [
        (["10.0.0.2", "10.0.0.1", "10.0.0.1"], ["10.0.0.1:8001", "10.0.0.2:8001"]),
        (["fd00::1", "10.0.0.1"], ["10.0.0.1:8001"]),
        (["fd00::1"], ["[fd00::1]:8001"]),
        ([], None),
    ],
)
def test_addresses_of_a_name(found: list[str], addresses: list[str] | None) -> None:
    async def resolve(_host: str, _port: int) -> list[Any]:
        return [ip_address(each) for each in found]

    assert asyncio.run(look_up(NAME, resolve)) == addresses
