"""Probes of Triton that run at most once a second, for any number of callers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

CACHED_S: Final = 1.0

T = TypeVar("T")


class Cached(Generic[T]):
    """Keeps a probe's answer for a second. After an exception the next caller probes again."""

    def __init__(self, probe: Callable[[], Awaitable[T]]) -> None:
        self._probe = probe
        self._lock = asyncio.Lock()
        self._answer: T | None = None
        self._asked_at = float("-inf")

    async def get(self) -> T:
        """Returns the probe's answer, at most a second old."""
        async with self._lock:
            if self._answer is None or time.monotonic() - self._asked_at >= CACHED_S:
                self._answer = await self._probe()
                self._asked_at = time.monotonic()
            return self._answer
