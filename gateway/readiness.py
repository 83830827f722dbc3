"""Whether requests can be served, asked at most once a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

CACHED_S: Final = 1.0


class Readiness:
    """Caches the answer of a probe."""

    def __init__(self, probe: Callable[[], Awaitable[bool]]) -> None:
        self._probe = probe
        self._lock = asyncio.Lock()
        self._ready = False
        self._checked_at = float("-inf")

    async def check(self) -> bool:
        """The probe's newest answer, at most a second old."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= CACHED_S:
                self._ready = await self._probe()
                self._checked_at = time.monotonic()
            return self._ready
