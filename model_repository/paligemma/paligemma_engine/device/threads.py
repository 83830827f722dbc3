"""How many threads PyTorch uses on the CPU."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Final

import torch

from paligemma_engine.device.cores import available_cores, physical_cores

OMP_NUM_THREADS: Final = "OMP_NUM_THREADS"

# Weights far beyond any cache. Each step then takes so long that a second thread nearly halves it, and what else a
# request costs, such as decoding its image, is less than a hundredth of the whole.
LARGE_WEIGHT_BYTES: Final = 500_000_000
WORTHWHILE: Final = 0.9  # share of the time with half the cores; a smaller gain does not justify twice the CPU time
TRIAL_S: Final = 0.3  # for each number of threads
MIN_TRIALS: Final = 3


class CpuThreads:
    """Decides by the model's size: all cores always for a large model; for a small one, half of them under load.

    With a small model a second thread makes a step somewhat quicker, or not at all, and costs twice the CPU time; under
    load the other cores have images to decode and masks to draw. A lone sequence has all cores if that is faster.

    OMP_NUM_THREADS overrules both. The engine thread owns it: OpenMP keeps a team of threads for every thread that
    computes, and several teams on the same cores slow each other down by far.
    """

    def __init__(self, weight_bytes: int, *, vary: bool = True) -> None:
        """Args:
        weight_bytes: size of the model.
        vary: False for the same number always: torch.compile compiles anew for each number of threads.
        """
        fixed = os.environ.get(OMP_NUM_THREADS, "")
        if fixed.isdigit() and int(fixed) > 0:
            self._lone = self._shared = int(fixed)
        elif weight_bytes >= LARGE_WEIGHT_BYTES:
            self._lone = self._shared = physical_cores()
        else:
            cores = available_cores()
            self._shared = max(1, cores // 2)
            self._lone = cores if vary else self._shared
        self._used = 0

    def set_for(self, sequences: int) -> None:
        """Before computing: how many sequences are running."""
        self._use(self._lone if sequences <= 1 else self._shared)

    def calibrate(self, step: Callable[[], object]) -> None:
        """Tries whether all cores make a lone sequence's decode step quicker; where they do not, half are used."""
        if self._lone != self._shared:
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
