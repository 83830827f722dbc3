"""The heartbeat files that engines write; their form is `paligemma_engine.heartbeat`'s."""

import time
from pathlib import Path

PATTERN = "engine-*"


def ages_s(folder: Path) -> dict[str, float]:
    """How long ago each engine last gave a sign of life."""
    now = time.time()
    return {path.name.removeprefix("engine-"): now - path.stat().st_mtime for path in folder.glob(PATTERN)}


def unanswered(folder: Path) -> int:
    """How many requests the engines have in hand."""
    return sum(int(path.read_text(encoding="ascii").strip() or 0) for path in folder.glob(PATTERN))
