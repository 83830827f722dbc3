"""Limits the number of requests that are served at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from gateway.errors import ApiError


class Admission:
    """Admits a number of requests and refuses others immediately.

    There is no queue: a client that tries again waits as long, and sees it. A request takes its place when its body has
    arrived, so slow uploads keep nobody out.
    """

    def __init__(self, max_concurrent_requests: int, in_flight: Gauge) -> None:
        self._free = max_concurrent_requests
        self._in_flight = in_flight

    def check(self) -> None:
        """Raises ApiError if no place is free, so that the body need not be read."""
        if self._free == 0:
            raise ApiError("overloaded", "the gateway serves as many requests as it can; try again later")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds a place for one request; raises ApiError if none is free."""
        self.check()
        self._free -= 1
        self._in_flight.inc()
        try:
            yield
        finally:
            self._free += 1
            self._in_flight.dec()
