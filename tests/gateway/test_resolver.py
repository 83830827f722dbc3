"""Names that are slow to look up: other fetches go on, and the caller is not blamed."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fetchers import fetcher
from web import SITE, reply, site

from gateway.errors import ApiError
from gateway.fetching.network import Resolver

SLOW = "slow.test"
BROKEN = "broken.test"


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """A resolver of the system whose names under SLOW take until the end of the test; released once for each begun."""
    begun, over = threading.Semaphore(0), threading.Event()

    def getaddrinfo(host: str, port: int, *_arguments: Any, **_options: Any) -> list[Any]:
        if host.endswith(SLOW):
            begun.release()
            over.wait()
        if host == BROKEN:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (SITE, port))]

    monkeypatch.setattr("gateway.fetching.network.socket.getaddrinfo", getaddrinfo)
    yield begun
    over.set()


async def look_up_slow_names(resolver: Resolver, count: int, begun: threading.Semaphore) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(resolver(f"{number}.{SLOW}", 80)) for number in range(count)]
    for _ in tasks:
        assert await asyncio.to_thread(begun.acquire, timeout=10)
    return tasks


def test_slow_names_do_not_stop_other_fetches(slow_names: threading.Semaphore) -> None:
    """Eight of them held all threads, and nobody else's name was looked up."""
    resolver = Resolver()

    async def run() -> bytes:
        async with site({"/image": reply(b"an image")}) as served:
            tasks = await look_up_slow_names(resolver, 8, slow_names)
            image = await fetcher(resolver).fetch(served.url(), timeout_s=15.0)
            for task in tasks:
                task.cancel()
        return image

    assert asyncio.run(run()) == b"an image"


def refused(resolver: Resolver, host: str) -> ApiError:
    with pytest.raises(ApiError) as refusal:
        asyncio.run(fetcher(resolver).fetch(f"http://{host}/image", timeout_s=15.0))
    return refusal.value


def test_a_look_up_without_a_free_thread_is_refused_at_once(slow_names: threading.Semaphore) -> None:
    resolver = Resolver(max_lookups=2)

    async def run() -> ApiError:
        tasks = await look_up_slow_names(resolver, 2, slow_names)
        with pytest.raises(ApiError) as refusal:
            await resolver("pictures.test", 80)
        for task in tasks:
            task.cancel()
        return refusal.value

    error = asyncio.run(run())
    assert (error.status, error.code) == (503, "lookup_failed")


@pytest.mark.parametrize("host", [SLOW, BROKEN])
def test_a_name_server_that_does_not_answer_is_our_fault(slow_names: threading.Semaphore, host: str) -> None:
    error = refused(Resolver(timeout_s=0.05), host)
    assert (error.status, error.code) == (503, "lookup_failed")


def test_a_thread_is_free_again_after_its_look_up(slow_names: threading.Semaphore) -> None:
    resolver = Resolver(max_lookups=1)

    async def run() -> None:
        for _ in range(5):
            assert [str(address) for address in await resolver("pictures.test", 80)] == [SITE]

    asyncio.run(run())


def test_a_system_without_threads_costs_no_place(
    slow_names: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look-up that could not begin kept its place for ever, and in the end there was none."""
    resolver = Resolver(max_lookups=1)

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> list[Any]:
        with monkeypatch.context() as patch:
            patch.setattr("gateway.fetching.network.Thread.start", start)
            with pytest.raises(ApiError) as refusal:
                await resolver("pictures.test", 80)
            assert refusal.value.code == "lookup_failed"
        return await resolver("pictures.test", 80)

    assert [str(address) for address in asyncio.run(run())] == [SITE]
