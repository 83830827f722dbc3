"""What is asked of Triton at most once a second, however many callers want to know."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

CACHED_S: Final = 1.0

T = TypeVar("T")


class Cached(Generic[T]):
    """Keeps the answer of a probe for a second. A probe that raises is asked again by the next caller."""

    def __init__(self, probe: Callable[[], Awaitable[T]]) -> None:
        self._probe = probe
        self._lock = asyncio.Lock()
        self._answer: T | None = None
        self._asked_at = float("-inf")

    async def get(self) -> T:
        """The probe's newest answer, at most a second old."""
        async with self._lock:
            if self._answer is None or time.monotonic() - self._asked_at >= CACHED_S:
                self._answer = await self._probe()
                self._asked_at = time.monotonic()
            return self._answer
