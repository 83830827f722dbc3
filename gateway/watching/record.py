"""The record of one request while it is served. Its line in the log and its metrics are made from it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Scope

RECORD: Final = "gateway.watching.record"  # where the record is in the ASGI scope


@dataclass(slots=True)
class RequestRecord:
    """One request.

    Attributes:
        request_id: the client's if it is well-formed, else a new one; used in logs, answers and Triton.
        started: `time.perf_counter()` when the request came.
        phases_s: seconds by phase: receive, fetch, inference (queueing included), encode.
        sizes: image_bytes and objects, as far as they are known; of Label Studio's requests, tasks and failed_tasks.
        code: of the error that was answered; None for a success.
        status: what the request counts as, where that is not the status that the answer began with; else None.
        notes: what else the access line shall hold, by field.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    phases_s: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    code: str | None = None
    status: int | None = None
    notes: dict[str, str] = field(default_factory=dict)
    _running: dict[str, tuple[int, float]] = field(default_factory=dict)  # by phase: how many times at once, since when
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures a phase, also one that fails. Several times at once, from any thread, its time counts once."""
        with self._lock:
            times, since = self._running.get(name, (0, time.perf_counter()))
            self._running[name] = (times + 1, since)
        try:
            yield
        finally:
            with self._lock:
                times, since = self._running.pop(name)
                if times > 1:
                    self._running[name] = (times - 1, since)
                else:
                    self.phases_s[name] = self.phases_s.get(name, 0.0) + time.perf_counter() - since

    @property
    def timings_ms(self) -> dict[str, float]:
        """The phases in milliseconds."""
        return {name: round(seconds * 1e3, 2) for name, seconds in self.phases_s.items()}


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request in this scope."""
    record = scope[RECORD]
    assert isinstance(record, RequestRecord)
    return record
