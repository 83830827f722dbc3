"""Lines for a log that may be on a full disk, or that nobody reads any more."""

import contextlib
from typing import TextIO


def write_text(stream: TextIO, text: str) -> None:
    """Writes and flushes. What cannot be written is lost: a supervisor goes on without its log."""
    with contextlib.suppress(OSError):
        stream.write(text)
        stream.flush()
