"""Work whose client goes away."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import from_thread, to_thread

from gateway.door.disconnect import while_connected
from gateway.errors import ApiError


def receiving(gone_after_s: float) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(gone_after_s)
        return {"type": "http.disconnect"}

    return receive


async def foreign_cancellation() -> None:
    """As gRPC's calls end when they are cancelled: with an error of their own."""
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        raise asyncio.CancelledError from None


def encode_objects() -> None:
    for _ in range(1000):
        from_thread.check_cancelled()
        time.sleep(0.01)


@pytest.mark.parametrize(
    "work", [lambda: asyncio.sleep(10), foreign_cancellation, lambda: to_thread.run_sync(encode_objects)]
)
def test_work_ends_when_the_client_goes(work: Callable[[], Awaitable[Any]]) -> None:
    async def run() -> None:
        started = time.monotonic()
        with pytest.raises(ApiError) as gone:
            await while_connected(receiving(0.05), work)
        assert (gone.value.code, gone.value.status) == ("client_disconnected", 499)
        assert time.monotonic() - started < 1.0
        await asyncio.sleep(0)  # nothing of the cancellation is left over

    anyio.run(run)


def test_results_and_errors_come_through() -> None:
    async def run() -> None:
        async def fail() -> None:
            raise ApiError("deadline", "too late")

        assert await while_connected(receiving(10), lambda: asyncio.sleep(0.01, "a result")) == "a result"
        with pytest.raises(ApiError, match="too late"):
            await while_connected(receiving(10), fail)

    anyio.run(run)


def test_a_cancellation_from_outside_stays_one() -> None:
    async def run() -> None:
        task = asyncio.create_task(while_connected(receiving(10), foreign_cancellation))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    anyio.run(run)
