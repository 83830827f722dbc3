"""Checkpoints that failed recently: they are not tried again for every request that names them."""

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
    """When each failed model may be tried again, by id. The pause doubles with each failure in a row.

    Not safe from several threads at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts empty.

        Args:
            clock: a monotonic clock in seconds.
        """
        self._clock = clock
        self._failures: OrderedDict[str, _Failure] = OrderedDict()  # the oldest first

    def add(self, model_id: str, error: EngineError) -> EngineError:
        """Records a failure; returns the error for its requests, which says when the model is tried again."""
        before = self._failures.pop(model_id, None)
        pause_s = FIRST_PAUSE_S if before is None else min(2 * before.pause_s, LONGEST_PAUSE_S)
        self._failures[model_id] = _Failure(error, pause_s, self._clock() + pause_s)
        while len(self._failures) > MOST_REMEMBERED:
            self._failures.popitem(last=False)
        return _dated(error, pause_s)

    def remove(self, model_id: str) -> None:
        """Forgets the failures of a model that was loaded."""
        self._failures.pop(model_id, None)

    def error_of(self, model_id: str) -> EngineError | None:
        """Returns the error that says when a model is tried again; None if it may be tried now."""
        failure = self._failures.get(model_id)
        if failure is None or (rest_s := failure.again_at - self._clock()) <= 0:
            return None
        return _dated(failure.error, rest_s)


def _dated(error: EngineError, pause_s: float) -> EngineError:
    message = error.args[0] if error.args else type(error).__name__
    return type(error)(f"{message}; the server tries it again in {math.ceil(pause_s)} s at the earliest")
