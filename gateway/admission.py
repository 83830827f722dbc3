"""Bounds what is served at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from gateway.errors import ApiError


class Admission:
    """Lets so many requests in and refuses others at once, before their bodies are read.

    A queue would only move the wait to where nobody sees it: the client's next try is as good as a place in it.
    """

    def __init__(self, max_concurrent_requests: int, in_flight: Gauge) -> None:
        self._free = max_concurrent_requests
        self._in_flight = in_flight

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """One request's place; raises ApiError where there is none."""
        if self._free == 0:
            raise ApiError("overloaded", "the gateway serves as many requests as it can; try again later")
        self._free -= 1
        self._in_flight.inc()
        try:
            yield
        finally:
            self._free += 1
            self._in_flight.dec()
