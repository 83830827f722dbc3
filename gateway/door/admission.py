"""Bounds what is served at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from gateway.errors import ApiError


class Admission:
    """Lets so many requests in and refuses others at once.

    A queue would only move the wait to where nobody sees it: the client's next try is as good as a place in it. A place
    is taken when a request's body is there: whoever sends slowly keeps nobody else out.
    """

    def __init__(self, max_concurrent_requests: int, in_flight: Gauge) -> None:
        self._free = max_concurrent_requests
        self._in_flight = in_flight

    def check(self) -> None:
        """Raises ApiError where no place is free: then a body need not be read."""
        if self._free == 0:
            raise ApiError("overloaded", "the gateway serves as many requests as it can; try again later")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """One request's place; raises ApiError where there is none."""
        self.check()
        self._free -= 1
        self._in_flight.inc()
        try:
            yield
        finally:
            self._free += 1
            self._in_flight.dec()
