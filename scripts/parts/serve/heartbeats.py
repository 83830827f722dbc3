"""Reads the engines' heartbeat files; `paligemma_engine.scheduling.heartbeat` defines their format."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PATTERN: Final = "engine-*"
STOPPING_FILE: Final = "stopping"


@dataclass(frozen=True, slots=True)
class Beat:
    """An engine's last heartbeat.

    Attributes:
        unanswered: number of its unanswered requests.
        beaten_at_s: its time on the monotonic clock, which all processes of a host share. The clock stops while the
            host sleeps, and time synchronization does not change it.
    """

    unanswered: int
    beaten_at_s: float


def ages_s(folder: Path) -> dict[str, float]:
    """Seconds since each engine's last heartbeat."""
    now = time.monotonic()
    return {name: now - beat.beaten_at_s for name, beat in _beats(folder).items()}


def unanswered(folder: Path) -> int:
    """Number of unanswered requests of all engines."""
    return sum(beat.unanswered for beat in _beats(folder).values())


def say_stopping(folder: Path) -> None:
    """Tells the engines that the server is about to be stopped: they refuse new requests from now on."""
    with contextlib.suppress(OSError):
        (folder / STOPPING_FILE).touch()


def _beats(folder: Path) -> dict[str, Beat]:
    """Heartbeats by engine. Skips files that vanish because their engine ends, and new files that are still empty."""
    beats = {}
    for path in folder.glob(PATTERN):
        with contextlib.suppress(FileNotFoundError, ValueError):
            count, at_s = path.read_text(encoding="ascii").split()
            beats[path.name.removeprefix("engine-")] = Beat(int(count), float(at_s))
    return beats
