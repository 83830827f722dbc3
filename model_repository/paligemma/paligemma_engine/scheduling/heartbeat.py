"""Heartbeat for a supervisor: a file that says when the engine thread last completed a round.

Its one line has two numbers: the count of unanswered requests, so that a supervisor can wait for them before it stops
the server, and the time of the beat on the monotonic clock, in seconds. Unlike a file's age, that clock is not changed
by a time server and stops while the host sleeps; it is the same in all processes of a host.

The supervisor answers with a file of its own in the same folder: it says that the server is about to be stopped.
"""

import logging
import os
import time
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0  # longest time between two beats, also without work
FILE_PREFIX: Final = "engine-"
STOPPING_FILE: Final = "stopping"  # the supervisor makes it

_LINE: Final = "%8d %20.3f\n"  # fixed length, so that a new line overwrites the old one completely


class Heartbeat:
    """One engine's heartbeat file; without a folder it does nothing."""

    def __init__(self, folder: Path | None, instance: str) -> None:
        self._file: int | None = None
        self._path: Path | None = None
        self._stopping: Path | None = None
        self._unanswered = 0
        self._beaten_at_s = float("-inf")
        self._failed = False
        if folder is not None:
            self._path = folder / f"{FILE_PREFIX}{instance}"
            self._stopping = folder / STOPPING_FILE
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            self.beat(0)  # so that an engine that never completes a round counts as stuck

    def beat(self, unanswered: int) -> None:
        """Writes the number of unanswered requests if it has changed or the last beat is too old."""
        if self._file is None:
            return
        now_s = time.monotonic()
        if unanswered != self._unanswered or now_s - self._beaten_at_s >= INTERVAL_S:
            try:
                os.pwrite(self._file, (_LINE % (unanswered, now_s)).encode("ascii"), 0)
            except OSError:  # for example a full disk: requests continue without the heartbeat
                if not self._failed:
                    _log.exception("the sign of life %s cannot be written", self._path)
                self._failed = True
                return
            self._unanswered, self._beaten_at_s, self._failed = unanswered, now_s, False

    def told_to_stop(self) -> bool:
        """Whether the supervisor is about to stop the server."""
        return self._stopping is not None and self._stopping.exists()

    def close(self) -> None:
        """Removes the file; an ageing file would mean a stuck engine."""
        if self._file is not None and self._path is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)
