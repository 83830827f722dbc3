"""Limits the size of a body, the size of all bodies together, and the time that an upload takes.

Bytes are counted as they arrive. A client that announces a large body and sends little takes no room from others. A
request's bytes count until its answer has been sent.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from prometheus_client import Gauge
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError

PACE_WINDOW_S: Final = 10.0
PACE_BYTES: Final = 160_000  # in each window, up to the end: 16 kB/s, a poor mobile connection
MIN_HELD_BYTES: Final = 262_144  # of a request with a small body: connection, task, and the server's buffers

_SHARE: Final = "gateway.share"  # where the request's share is in the ASGI scope


class ByteBudget:
    """The bytes of bodies and answers that all requests together may hold."""

    def __init__(self, max_bytes: int, held: Gauge) -> None:
        """`held` shows how many are held."""
        self._free_bytes = max_bytes
        self._held = held

    @property
    def free_bytes(self) -> int:
        """The bytes that are left; negative if answers take more than the limit."""
        return self._free_bytes

    def take(self, count: int) -> None:
        """Takes bytes, even if none are left; a negative number gives them back."""
        self._free_bytes -= count
        self._held.inc(count)

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """One request's share, empty at first; given back when the context ends."""
        share = Share(self)
        try:
            yield share
        finally:
            share.become(0)


class Share:
    """What one request holds of the budget."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._held_bytes = 0

    def check(self, count: int) -> None:
        """Raises ApiError if this many further bytes do not fit."""
        if count > self._budget.free_bytes:
            raise ApiError("overloaded", "the gateway holds as many bytes of requests as it can; try again later")

    def grow(self, count: int) -> None:
        """Takes further bytes; raises ApiError if they do not fit."""
        self.check(count)
        self.become(self._held_bytes + count)

    def part(self) -> AbstractContextManager["Share"]:
        """A share of its own for a part of the request's work, given back when that part ends."""
        return self._budget.share()

    def become(self, count: int) -> None:
        """Sets the bytes that the request holds, whether they fit or not."""
        self._budget.take(count - self._held_bytes)
        self._held_bytes = count

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Holds so many further bytes until the context ends, whether they fit or not."""
        self.become(self._held_bytes + count)
        try:
            yield
        finally:
            self.become(self._held_bytes - count)


def share_of(scope: Scope) -> Share:
    """The share of the request in this scope."""
    share = scope[_SHARE]
    assert isinstance(share, Share)
    return share


class BodyMiddleware:
    """Stops reading a body that is too large, too slow or does not fit; refuses it unread if its length says so."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, budget: ByteBudget) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; its `receive` raises ApiError when a body exceeds a limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._budget.share() as share:
            scope[_SHARE] = share
            declared = Headers(scope=scope).get("content-length", "")
            declared_bytes = int(declared[:20]) if declared.isascii() and declared.isdigit() else 0
            body = _Body(receive, share, max_bytes=self._max_body_bytes, declared_bytes=declared_bytes)

            async def send_and_hold(message: Message) -> None:
                """Returns when the client has taken nearly all of a large piece; the last one counts until then."""
                piece, more = message.get("body", b""), message.get("more_body", False)
                if len(piece) > MIN_HELD_BYTES:
                    if not more:
                        share.become(len(piece))
                    await send({**message, "more_body": True})
                    message = {"type": "http.response.body", "body": b"", "more_body": more}
                await send(message)

            await self._app(scope, body.receive, send_and_hold)


class _Body:
    """A body that is arriving."""

    def __init__(self, receive: Receive, share: Share, *, max_bytes: int, declared_bytes: int) -> None:
        self._receive = receive
        self._share = share
        self._max_bytes = max_bytes
        self._declared_bytes = declared_bytes
        self._received_bytes = 0
        self._room_bytes = 0
        self._window_ends = 0.0
        self._window_bytes = 0
        self._ended = False

    async def receive(self) -> Message:
        """Returns the next message; raises ApiError if the body exceeds a limit."""
        if self._ended:  # only the client's disconnect can follow, and it has no time limit
            return await self._receive()
        if self._room_bytes == 0:
            self._begin()
        try:
            async with asyncio.timeout_at(self._window_ends):
                message = await self._receive()
        except TimeoutError as error:
            raise ApiError("request_timeout", "the request came too slowly; send it faster") from error
        self._count(len(message.get("body", b"")))
        self._ended = not message.get("more_body", False)
        return message

    def _begin(self) -> None:
        self._check_size(self._declared_bytes)
        self._share.check(max(self._declared_bytes, MIN_HELD_BYTES))
        self._make_room(MIN_HELD_BYTES)
        self._window_ends = asyncio.get_running_loop().time() + PACE_WINDOW_S

    def _count(self, count: int) -> None:
        self._received_bytes += count
        self._check_size(self._received_bytes)
        self._make_room(self._received_bytes)
        self._window_bytes += count
        if self._window_bytes >= PACE_BYTES:
            self._window_bytes = 0
            self._window_ends = asyncio.get_running_loop().time() + PACE_WINDOW_S

    def _make_room(self, count: int) -> None:
        if count > self._room_bytes:
            self._share.grow(count - self._room_bytes)
            self._room_bytes = count

    def _check_size(self, body_bytes: int) -> None:
        if body_bytes > self._max_bytes:
            raise ApiError("request_too_large", f"the request is too large; send at most {self._max_bytes} bytes")
