"""The time that one request has."""

import time

from gateway.errors import ApiError


def time_is_up() -> ApiError:
    """The error of a request whose time is up."""
    return ApiError("deadline", "the request's time was up before it was answered")


class Deadline:
    """A fixed end of the time for a request."""

    def __init__(self, timeout_s: float) -> None:
        self._ends_at = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Returns the seconds left, more than 0; raises ApiError if the time is up."""
        remaining_s = self._ends_at - time.monotonic()
        if remaining_s <= 0:
            raise time_is_up()
        return remaining_s
