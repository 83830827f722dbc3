"""Signs of life for a supervisor: a file whose age says when the engine thread last went round.

Its content is the number of requests that are not yet answered, so that a supervisor can let them end before it
stops the server.
"""

import logging
import os
import time
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0  # at the latest after so long an engine without work beats, too
FILE_PREFIX: Final = "engine-"

_WIDTH: Final = 8


class Heartbeat:
    """One engine's heartbeat file; without a folder it does nothing."""

    def __init__(self, folder: Path | None, instance: str) -> None:
        self._file: int | None = None
        self._path: Path | None = None
        self._content = b""
        self._beaten_at = 0.0
        self._failed = False
        if folder is not None:
            self._path = folder / f"{FILE_PREFIX}{instance}"
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)

    def beat(self, unanswered: int) -> None:
        """Writes the number of unanswered requests, when it has changed or the last beat is a while ago."""
        if self._file is None:
            return
        content = b"%*d\n" % (_WIDTH, unanswered)
        now = time.monotonic()
        if content != self._content or now - self._beaten_at >= INTERVAL_S:
            try:
                os.pwrite(self._file, content, 0)
            except OSError:  # a full disk, say: the supervisor will miss the sign, the requests need not
                if not self._failed:
                    _log.exception("the sign of life %s cannot be written", self._path)
                self._failed = True
                return
            self._content, self._beaten_at, self._failed = content, now, False

    def close(self) -> None:
        """Stops beating; the file goes, since one that ages means a stuck engine."""
        if self._file is not None and self._path is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)
