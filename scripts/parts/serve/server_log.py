"""Passes tritonserver's log on line by line, and searches it for errors."""

import collections
import re
import sys
import threading
from typing import IO, Final

from parts.serve.output import write_text

LINES_KEPT: Final = 400
LINES_SHOWN: Final = 12

FAILED_LOAD: Final = "failed to load '"
NO_GPU: Final = re.compile("CudaDriverHelper|CUDA driver")  # logged at every start on a host without a GPU
ERROR_LINE: Final = re.compile(r"E[0-9]{4} |error: |Traceback")


class ServerLog:
    """Reads a server's output to its end, even if the lines cannot be written: a full pipe would stop the server."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=LINES_KEPT)
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits for the end of the output."""
        self._thread.join(timeout_s)

    def failure_lines(self) -> list[str]:
        """The newest lines with errors."""
        lines = list(self._lines)
        failed_loads = [line for line in lines if FAILED_LOAD in line and "Internal: " in line]
        telling = failed_loads or [line for line in lines if ERROR_LINE.match(line) and not NO_GPU.search(line)]
        # An exception is logged as one line: its text, then its traceback, which is cut off.
        causes = [line.partition(r"\n\nAt:")[0].partition('] "')[2] or line for line in telling]
        return causes[-LINES_SHOWN:]

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace")
                self._lines.append(text.rstrip())
                write_text(sys.stdout, text)
