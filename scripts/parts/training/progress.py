"""A training run that can be stopped and resumed: its clock, its saved state, its learning curve."""

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
        seconds: training time so far, over all sessions.
        step: number of steps so far.
        stopped: whether a signal has been received.
        together: this process's rank among those of the run.
    """

    def __init__(self, folder: Path, hours: float, together: Together | None = None) -> None:
        """Args:
        folder: folder for `state.pt` and `curve.jsonl`; created if it is missing.
        hours: duration of the whole run, earlier sessions included.
        together: this process's rank; only the first process's clock counts, and only it writes.
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
        """Makes SIGINT and SIGTERM end the session after the current step, so that nothing is lost."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True

    @property
    def share(self) -> float:
        """Share of the whole run that is done, in [0, 1]."""
        return min(self.seconds / self._total_s, 1.0)

    def load(self, device: str) -> dict[str, Any] | None:
        """Loads the last saved state with its tensors on a device, or None; the clock resumes from it."""
        if not self._state_file.exists():
            return None
        state: dict[str, Any] = torch.load(self._state_file, map_location=device, weights_only=True)
        self.seconds, self.step = state["seconds"], state["step"]
        return state

    def steps(self, name: str, until: float = 1.0) -> Iterator[int]:
        """Yields step numbers until a share of the run is done or a signal is received, and counts their time."""
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
        """Writes the state atomically, so that no reader and no later session finds a partial file."""
        self._saved_at = time.monotonic()
        if not self.together.is_first:
            return
        partial = self._state_file.with_suffix(".part")
        torch.save({**state, "seconds": self.seconds, "step": self.step}, partial)
        partial.replace(self._state_file)

    @property
    def save_is_due(self) -> bool:
        """Whether the last save was some minutes ago."""
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
