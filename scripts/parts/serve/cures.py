"""Advice for failures whose messages give none: shared memory, file access, full disk."""

import os
import re
import shutil
from pathlib import Path
from typing import Final

# The models' own regions take a few megabytes; each request takes its image's size, 20 MB at most, more than once.
MIN_SHARED_MEMORY_BYTES: Final = 32_000_000
MEGABYTE: Final = 1e6

NO_ANSWER_CURE: Final = (
    "the models are loaded and cannot answer. A known cause is a Python backend that cannot send an answer from a "
    "thread: that of Triton 2.51 can with Python 3.10 and 3.11, and not with 3.12. Use one of these, or the image that "
    "Dockerfile.triton names"
)

NO_ACCESS: Final = re.compile(r"(?:Permission denied|Read-only file system): '([^']+)'")
NO_SPACE: Final = re.compile(r"No space left on device|Disk quota exceeded")


def shared_memory_problem(folder: Path) -> str | None:
    """Says why shared memory is too small, and what to do; None if there is enough."""
    total, _, free = shutil.disk_usage(folder)
    if free >= MIN_SHARED_MEMORY_BYTES:
        return None
    return (
        f"{folder} has {free / MEGABYTE:.0f} MB free of {total / MEGABYTE:.0f} MB, and Triton needs "
        f"{MIN_SHARED_MEMORY_BYTES / MEGABYTE:.0f} MB to hand tensors to its models: give the container more "
        "(shm_size in the compose file, docker run --shm-size), or delete what others left there"
    )


def find_cures(lines: list[str]) -> list[str]:
    """Returns advice for file and disk errors in a log's lines."""
    text = "\n".join(lines)
    user = f"user {os.getuid()}:{os.getgid()}"
    cures = [
        f"{user} has no access to {path}: give it access, or run as the owner of that folder (UID and GID, in .env)"
        for path in dict.fromkeys(NO_ACCESS.findall(text))
    ]
    if NO_SPACE.search(text):
        cures.append("the disk is full: make room, or put MODELS_DIR on another; a download goes on where it stopped")
    return cures
