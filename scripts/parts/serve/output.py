"""Writes to a log that may be on a full disk or a closed pipe."""

import contextlib
from typing import TextIO


def write_text(stream: TextIO, text: str) -> None:
    """Writes and flushes. Text that cannot be written is dropped: a supervisor must run on without its log."""
    with contextlib.suppress(OSError):
        stream.write(text)
        stream.flush()
