"""The heartbeat files that engines write; their form is `paligemma_engine.heartbeat`'s."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATTERN = "engine-*"
Value = TypeVar("Value")


def ages_s(folder: Path) -> dict[str, float]:
    """How long ago each engine last gave a sign of life."""
    now = time.time()
    beaten_at = _each(folder, lambda path: path.stat().st_mtime)
    return {path.name.removeprefix("engine-"): now - at for path, at in beaten_at.items()}


def unanswered(folder: Path) -> int:
    """How many requests the engines have in hand."""
    return sum(_each(folder, lambda path: int(path.read_text(encoding="ascii").strip() or 0)).values())


def _each(folder: Path, read: Callable[[Path], Value]) -> dict[Path, Value]:
    """What the files say; an engine that ends takes its file away at any time."""
    values = {}
    for path in folder.glob(PATTERN):
        with contextlib.suppress(FileNotFoundError):
            values[path] = read(path)
    return values
