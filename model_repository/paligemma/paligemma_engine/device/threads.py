"""How many threads PyTorch uses on the CPU."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Final

import torch

OMP_NUM_THREADS: Final = "OMP_NUM_THREADS"

WORTHWHILE: Final = 0.9  # share of the time with half the cores; a smaller gain does not justify twice the CPU time
TRIAL_S: Final = 0.3  # for each number of threads
MIN_TRIALS: Final = 3


class CpuThreads:
    """Uses all cores for a single sequence if that is faster, half of them for several.

    A second thread makes one small step somewhat quicker, or not at all, and costs twice the CPU time; under load the
    other cores have images to decode and masks to draw. OMP_NUM_THREADS overrules it. The engine thread owns it: OpenMP
    keeps a team of threads for every thread that computes, and several teams on the same cores slow each other down by
    far.
    """

    def __init__(self, *, vary: bool = True) -> None:
        """`vary`: False for half the cores always: torch.compile compiles anew for each number of threads."""
        cores = len(os.sched_getaffinity(0))
        fixed = os.environ.get(OMP_NUM_THREADS, "")
        self._shared = int(fixed) if fixed.isdigit() else max(1, cores // 2)
        self._lone = cores if vary and not fixed.isdigit() else self._shared
        self._used = 0

    def set_for(self, sequences: int) -> None:
        """Before computing: how many sequences are running."""
        self._use(self._lone if sequences <= 1 else self._shared)

    def calibrate(self, step: Callable[[], object]) -> None:
        """Tries whether all cores make a lone sequence's decode step quicker; where they do not, half are used."""
        if self._lone == self._shared:
            return
        seconds = {threads: self._time(step, threads) for threads in (self._lone, self._shared)}
        if seconds[self._lone] > WORTHWHILE * seconds[self._shared]:
            self._lone = self._shared
        self._used = 0  # the next caller is another thread, with its own setting

    def _time(self, step: Callable[[], object], threads: int) -> float:
        """Median seconds of a step."""
        self._use(threads)
        step()
        trials: list[float] = []
        while len(trials) < MIN_TRIALS or sum(trials) < TRIAL_S:
            started = time.perf_counter()
            step()
            trials.append(time.perf_counter() - started)
        return statistics.median(trials)

    def _use(self, threads: int) -> None:
        if threads != self._used:
            torch.set_num_threads(threads)
            self._used = threads
