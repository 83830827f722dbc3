"""Server-sent events.

event: NAME
data: JSON on one line
(an empty line)
"""

from typing import Final

import anyio
from starlette.types import Send

EVENT_STREAM: Final = "text/event-stream"
COMMENT: Final = b": keep-alive\n\n"  # keeps proxies from closing an idle connection; readers ignore it

_HEADERS: Final = (
    (b"content-type", f"{EVENT_STREAM}; charset=utf-8".encode()),
    (b"x-accel-buffering", b"no"),  # nginx must not buffer
)


def encode_event(name: str, data: str) -> bytes:
    """Returns one event; `data` is JSON without line breaks, as pydantic and json write it."""
    return f"event: {name}\ndata: {data}\n\n".encode()


class EventStream:
    """A response of events. Several tasks may send at the same time: pieces are sent whole, one after another.

    Attributes:
        begun: whether the status has been sent; from then on an error can only be an event.
    """

    def __init__(self, send: Send, opening: bytes) -> None:
        """`send` is ASGI's."""
        self.begun = False
        self._send = send
        self._opening = opening
        self._lock = anyio.Lock()

    async def begin(self) -> None:
        """Sends status, headers and the opening event, once."""
        async with self._lock:
            await self._begin()

    async def send(self, piece: bytes, *, more: bool = True) -> None:
        """Sends a piece, after the beginning. Returns when the client has received nearly all of a large piece."""
        async with self._lock:
            await self._begin()
            await self._send_body(piece, more=more)

    async def _begin(self) -> None:
        if not self.begun:
            await self._send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            self.begun = True
            await self._send_body(self._opening, more=True)

    async def _send_body(self, piece: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})
