"""uvicorn's HTTP/1.1 protocol, with limits for clients that are slow before a request's body and after its answer.

uvicorn itself only limits how long a connection may be idle between two requests. `bodies` limits bodies.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.door.bodies import PACE_BYTES, PACE_WINDOW_S

HEAD_TIMEOUT_S: Final = 10.0
MAX_HEAD_BYTES: Final = 65_536  # also limits chunk headers and trailers


class GatewayProtocol(HttpToolsProtocol):
    """Closes connections whose headers are slow or too long, and those whose client does not read its answer.

    If a client is refused while it still sends, the rest of its body is read for a limited time. Closing at once would
    reset the connection, and the client would lose the answer.

    Attributes:
        head_timeout_s: from a request's first byte, or from the start of the connection, to the end of its headers. The
            rest of a refused body must also arrive in this time.
        pace_window_s: in each window, the client must read PACE_BYTES of an answer, or its rest.
    """

    head_timeout_s: float = HEAD_TIMEOUT_S
    pace_window_s: float = PACE_WINDOW_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._pace_timer: asyncio.TimerHandle | None = None
        self._in_request = False
        self._in_head = False
        self._closes = False
        self._got_part = False  # whether the last bytes brought a head's beginning or end, or a piece of a body
        self._unread_bytes = 0  # since they did

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened; its first headers must arrive in time."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection was closed; its timers are cancelled."""
        self._stop_head_timer()
        self._stop_pace_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived, of headers, of a body, or of several requests."""
        self._got_part = False
        super().data_received(data)
        self._unread_bytes = 0 if self._got_part or not self._in_request else self._unread_bytes + len(data)
        if self._unread_bytes > MAX_HEAD_BYTES:
            self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head_timer()
        elif self._in_request or self.cycle is None:
            self._await_head()
        else:  # a refused body has come to its end: from now on the connection is idle
            self._stop_head_timer()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_request = self._in_head = self._got_part = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are ignored, because uvicorn would add them to the headers without a limit."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The end of a head."""
        self._in_head = False
        self._got_part = True
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, _PatientTransport(self.transport, self.close_when_heard))

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._got_part = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._in_request = False
        super().on_message_complete()
        if self._closes:
            self.transport.close()

    def close_when_heard(self) -> None:
        """Closes after the last answer and after the request."""
        if not self._in_request or self.transport.is_closing():
            self.transport.close()
            return
        self._closes = True
        self._await_head()
        self.transport.write_eof()

    def send_400_response(self, msg: str) -> None:
        """The bytes are not HTTP; answers 400 unless the last answer has been written."""
        if self._closes:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """The client reads an answer more slowly than it is written."""
        super().pause_writing()
        self._await_pace(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has read nearly all of it."""
        self._stop_pace_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """The connection was idle for too long; the rest of an answer that the client has not read is dropped."""
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _await_pace(self, unsent_bytes: int) -> None:
        self._stop_pace_timer()
        self._pace_timer = self.loop.call_later(self.pace_window_s, self._check_pace, unsent_bytes)

    def _check_pace(self, unsent_bytes: int) -> None:
        still_unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes - still_unsent_bytes < PACE_BYTES:
            self.transport.abort()
        else:
            self._await_pace(still_unsent_bytes)

    def _stop_pace_timer(self) -> None:
        if self._pace_timer is not None:
            self._pace_timer.cancel()
            self._pace_timer = None


class _PatientTransport:
    """A transport whose `close` is replaced."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
