"""Detects that callers have closed their connection, and tells the engine."""

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Final

from responder import Responder

from paligemma_engine import Ticket

_log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S: Final = 2.0  # a call to a dead server never returns
_INTERVAL_S: Final = 0.1
_LOOKS: Final = 8  # per interval: each is a round trip to the server


class CancellationWatcher:
    """A thread that asks Triton about the running requests, a few at a time, in turn.

    Triton tells of direct calls only: inside an ensemble a request is never seen as cancelled.
    """

    def __init__(self, cancel: Callable[[Ticket], None]) -> None:
        self._cancel = cancel
        self._watched: dict[Ticket, Responder] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancellation", daemon=True)
        self._thread.start()

    def watch(self, ticket: Ticket, responder: Responder) -> None:
        """Asks for `ticket` until it is answered or cancelled."""
        with self._lock:
            self._watched[ticket] = responder

    def close(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            try:
                self._look()
            except Exception:
                _log.exception("requests could not be asked whether their callers have gone")

    def _look(self) -> None:
        for ticket, responder in self._next():
            if responder.is_cancelled():
                self._cancel(ticket)

    def _next(self) -> list[tuple[Ticket, Responder]]:
        """Returns the requests whose turn it is, and moves them to the end of the queue."""
        with self._lock:
            self._watched = {ticket: each for ticket, each in self._watched.items() if not _is_over(ticket)}
            turn = list(itertools.islice(self._watched.items(), _LOOKS))
            for ticket, responder in turn:
                del self._watched[ticket]
                self._watched[ticket] = responder
            return turn


def _is_over(ticket: Ticket) -> bool:
    return ticket.answered or ticket.cancelled
