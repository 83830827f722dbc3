"""When a failed request is sent again."""

import math
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from paligemma_client.errors import (
    UNKNOWN_CODE,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    ServerBusy,
    ServerFailed,
)

FIRST_PAUSE_S: Final = 0.25
MAX_PAUSE_S: Final = 5.0
MIN_JITTER: Final = 0.5  # of a pause; without jitter all clients would return to a restarted server at the same time
MAX_FAILED_ATTEMPTS: Final = 3  # after faults of the server: a picture that causes them is not sent for ever
_FAILED_BY_CHANCE: Final = frozenset({"internal", UNKNOWN_CODE})


@dataclass(frozen=True, slots=True)
class Pause:
    """The client waits."""

    seconds: float


def persist(
    attempt: Callable[[float], Any], timeout_s: float, *, clock: Callable[[], float] = time.monotonic
) -> Generator[Any, Any, Any]:
    """Yields attempts, and pauses between them, until one succeeds; returns its result.

    Args:
        attempt: makes what is yielded, given the seconds that it may take.
        timeout_s: for all attempts together.
        clock: for tests.

    Raises:
        ClientError: the last attempt's, if another one cannot help or the time is up.
    """
    give_up_at = clock() + timeout_s
    for number in count(1):
        try:
            return (yield attempt(give_up_at - clock()))
        except ClientError as error:
            pause_s = pause_after(error, number)
            if pause_s is None or clock() + pause_s >= give_up_at:
                raise
        yield Pause(pause_s)


def pause_after(error: ClientError, attempts: int) -> float | None:
    """Returns the seconds to wait after this many failed attempts; None if another attempt cannot help."""
    jitter = random.uniform(MIN_JITTER, 1.0)  # noqa: S311 (nothing secret)
    backoff_s = min(MAX_PAUSE_S, math.ldexp(FIRST_PAUSE_S, min(attempts - 1, 10))) * jitter
    match error:
        case DeadlineExceeded():
            return None
        case ConnectionFailed():
            return backoff_s
        case ServerBusy():
            return backoff_s + (error.retry_after_s or 0.0)
        case ServerFailed() if error.code in _FAILED_BY_CHANCE and attempts < MAX_FAILED_ATTEMPTS:
            return backoff_s
        case _:
            return None
