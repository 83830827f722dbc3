"""Cancels the work of a request whose client has closed the connection."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
from starlette.types import Receive

from gateway.errors import ApiError

T = TypeVar("T")


def client_gone() -> ApiError:
    """The error of a request whose client has closed the connection; seen in logs and metrics only."""
    return ApiError("client_disconnected", "the client has gone")


async def while_connected(receive: Receive, work: Callable[[], Awaitable[T]]) -> T:
    """Runs the work; cancels it and raises ApiError as soon as the client closes the connection.

    Only for requests whose body has been read: the next message can then only be the disconnect.
    """
    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(_cancel_when_gone(receive, scope))
        try:
            return await work()
        except asyncio.CancelledError:
            # gRPC raises its own cancellation, which the scope does not recognise; this raises the scope's.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            watcher.cancel()
    raise client_gone()


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
