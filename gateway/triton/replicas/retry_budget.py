"""Limits the number of retries."""

from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 10.0
SHARE: Final = 0.2  # share of the requests in the window
FLOOR: Final = 10  # retries in the window that are always allowed


class RetryBudget:
    """Limits retries to a share of the requests of the last WINDOW_S, so that retries do not double an overload."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests: deque[float] = deque()
        self._retries: deque[float] = deque()

    def count_request(self) -> None:
        """Counts a request."""
        now = self._clock()
        _forget(self._requests, now)
        self._requests.append(now)

    def take(self) -> bool:
        """Returns whether a retry is allowed now, and counts it if so."""
        now = self._clock()
        _forget(self._requests, now)
        _forget(self._retries, now)
        allowed = len(self._retries) < FLOOR + SHARE * len(self._requests)
        if allowed:
            self._retries.append(now)
        return allowed


def _forget(times: deque[float], now: float) -> None:
    while times and times[0] <= now - WINDOW_S:
        times.popleft()
