"""A training run that can be stopped and gone on with: its clock, its saved state, its curve."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from tqdm import tqdm

from parts.training.together import Together

_SAVE_EVERY_S: Final = 180.0


class Run:
    """A run's folder and clock.

    Attributes:
        seconds: trained so far, over all sessions.
        step: steps so far.
        stopped: whether a signal came.
        together: this process's place among those of the run.
    """

    def __init__(self, folder: Path, hours: float, together: Together | None = None) -> None:
        """Args:
        folder: for `state.pt` and `curve.jsonl`; made where it is missing.
        hours: that the whole run shall take, earlier sessions included.
        together: this process's place; the first one's clock counts, and it alone writes.
        """
        self.together = together or Together()
        folder.mkdir(parents=True, exist_ok=True)
        self._state_file = folder / "state.pt"
        self._curve_file = folder / "curve.jsonl"
        self._total_s = hours * 3600
        self._saved_at = time.monotonic()
        self.stopped = False
        self.seconds = 0.0
        self.step = 0

    def stop_on_signals(self) -> None:
        """SIGINT and SIGTERM end the session after the running step, so that nothing is lost."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True

    @property
    def share(self) -> float:
        """How much of the whole run is done, in [0, 1]."""
        return min(self.seconds / self._total_s, 1.0)

    def load(self, device: str) -> dict[str, Any] | None:
        """What was saved last, its tensors on a device, or None; the clock goes on from there."""
        if not self._state_file.exists():
            return None
        state: dict[str, Any] = torch.load(self._state_file, map_location=device, weights_only=True)
        self.seconds, self.step = state["seconds"], state["step"]
        return state

    def steps(self, name: str, until: float = 1.0) -> Iterator[int]:
        """Numbers of steps until a share of the run is done or a signal came, each with its time on the clock."""
        shown = round(until * self._total_s)
        initial = min(round(self.seconds), shown)
        quiet = not self.together.is_first
        with tqdm(total=shown, initial=initial, desc=name, unit="s", mininterval=10, disable=quiet) as bar:
            while self.share < until and not self.stopped:
                started = time.monotonic()
                yield self.step
                passed = time.monotonic() - started
                self.seconds, stopped = self.together.as_the_first(self.seconds + passed, self.stopped)
                self.stopped = bool(stopped)
                self.step += 1
                bar.update(passed)

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state so that a reader, or a next session, never meets half a file."""
        self._saved_at = time.monotonic()
        if not self.together.is_first:
            return
        partial = self._state_file.with_suffix(".part")
        torch.save({**state, "seconds": self.seconds, "step": self.step}, partial)
        partial.replace(self._state_file)

    @property
    def save_is_due(self) -> bool:
        """Whether the last save is some minutes ago."""
        return time.monotonic() - self._saved_at > _SAVE_EVERY_S

    def log(self, phase: str, **figures: float) -> None:
        """Appends a line to the curve, and prints it."""
        if not self.together.is_first:
            return
        line = {"seconds": round(self.seconds), "step": self.step, "phase": phase}
        line |= {name: round(figure, 4) for name, figure in figures.items()}
        with self._curve_file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))
