"""Sees that callers went away, and tells the engine."""

import threading
from collections.abc import Callable
from typing import Any, Final

from paligemma_engine import Ticket

_CLOSE_TIMEOUT_S: Final = 2.0  # a round trip to a server that has died never ends
_INTERVAL_S: Final = 0.1  # each look is a round trip to the server for every request in hand


class CancellationWatcher:
    """A thread that asks Triton about every request in hand.

    Triton tells of direct calls only: inside an ensemble a request is never seen as cancelled.
    """

    def __init__(self, cancel: Callable[[Ticket], None]) -> None:
        self._cancel = cancel
        self._watched: dict[Ticket, Any] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancellation", daemon=True)
        self._thread.start()

    def watch(self, ticket: Ticket, sender: Any) -> None:
        """Asks `sender` about `ticket` until it is answered or cancelled."""
        with self._lock:
            self._watched[ticket] = sender

    def close(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            with self._lock:
                self._watched = {ticket: sender for ticket, sender in self._watched.items() if not _is_over(ticket)}
                watched = dict(self._watched)
            for ticket, sender in watched.items():
                if not _is_over(ticket) and sender.is_cancelled():
                    self._cancel(ticket)


def _is_over(ticket: Ticket) -> bool:
    return ticket.answered or ticket.cancelled
