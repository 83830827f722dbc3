"""Checkpoints that could not be had a moment ago: not tried again for every request that names them."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from paligemma_engine.errors import EngineError

FIRST_PAUSE_S: Final = 60.0
LONGEST_PAUSE_S: Final = 960.0
MOST_REMEMBERED: Final = 1000  # bounds memory against invented ids


@dataclass(frozen=True, slots=True)
class _Failure:
    error: EngineError
    pause_s: float
    again_at: float


class RecentFailures:
    """By model id, until when each is not tried again; the pause doubles with each failure in a row.

    Not safe from several threads at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts empty.

        Args:
            clock: seconds that only grow.
        """
        self._clock = clock
        self._failures: OrderedDict[str, _Failure] = OrderedDict()  # the oldest first

    def add(self, model_id: str, error: EngineError) -> EngineError:
        """Remembers a failure; returns the error to answer with, which says when it is tried again."""
        before = self._failures.pop(model_id, None)
        pause_s = FIRST_PAUSE_S if before is None else min(2 * before.pause_s, LONGEST_PAUSE_S)
        self._failures[model_id] = _Failure(error, pause_s, self._clock() + pause_s)
        while len(self._failures) > MOST_REMEMBERED:
            self._failures.popitem(last=False)
        return _dated(error, pause_s)

    def remove(self, model_id: str) -> None:
        """Forgets about a model that could be loaded."""
        self._failures.pop(model_id, None)

    def error_of(self, model_id: str) -> EngineError | None:
        """Why a model is not tried again yet, and when it will be; None where it may be tried."""
        failure = self._failures.get(model_id)
        if failure is None or (rest_s := failure.again_at - self._clock()) <= 0:
            return None
        return _dated(failure.error, rest_s)


def _dated(error: EngineError, pause_s: float) -> EngineError:
    message = error.args[0] if error.args else type(error).__name__
    return type(error)(f"{message}; the server tries it again in {math.ceil(pause_s)} s at the earliest")
