"""What is known of one request while it is served; becomes its access line and its metrics."""

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
        request_id: the client's, where it is well-formed; in logs, answers and Triton.
        started: `time.perf_counter()` when the request came.
        phases_s: seconds by phase: receive, fetch, inference (queueing included), encode.
        sizes: image_bytes and objects, as far as they are known; of Label Studio's requests, tasks and failed_tasks.
        code: of the error that was answered; None for a success.
        notes: what else the access line shall hold, by field.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    phases_s: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    code: str | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures a phase, also one that fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.phases_s[name] = time.perf_counter() - started

    @property
    def timings_ms(self) -> dict[str, float]:
        """The phases in milliseconds."""
        return {name: round(seconds * 1e3, 2) for name, seconds in self.phases_s.items()}


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request in this scope."""
    record = scope[RECORD]
    assert isinstance(record, RequestRecord)
    return record
