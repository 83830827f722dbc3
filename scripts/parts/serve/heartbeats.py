"""The heartbeat files that engines write; their form is `paligemma_engine.scheduling.heartbeat`'s."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PATTERN: Final = "engine-*"


@dataclass(frozen=True, slots=True)
class Beat:
    """An engine's last sign of life.

    Attributes:
        unanswered: how many requests it had in hand.
        beaten_at_s: when, on the monotonic clock, which all processes of a host share. It does not go on while the host
            sleeps, and no time server sets it.
    """

    unanswered: int
    beaten_at_s: float


def ages_s(folder: Path) -> dict[str, float]:
    """How long ago each engine last gave a sign of life."""
    now = time.monotonic()
    return {name: now - beat.beaten_at_s for name, beat in _beats(folder).items()}


def unanswered(folder: Path) -> int:
    """How many requests the engines have in hand."""
    return sum(beat.unanswered for beat in _beats(folder).values())


def _beats(folder: Path) -> dict[str, Beat]:
    """By engine; one that ends takes its file away at any time, and a new file is empty for a moment."""
    beats = {}
    for path in folder.glob(PATTERN):
        with contextlib.suppress(FileNotFoundError, ValueError):
            count, at_s = path.read_text(encoding="ascii").split()
            beats[path.name.removeprefix("engine-")] = Beat(int(count), float(at_s))
    return beats
