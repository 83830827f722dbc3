"""The number of PyTorch's threads on the CPU."""

import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Final

import torch

from paligemma_engine.device.cores import available_cores, physical_cores

OMP_NUM_THREADS: Final = "OMP_NUM_THREADS"

# Weights much larger than any cache. A second thread then nearly halves a step, and the rest of a request, such as
# decoding its image, is less than a hundredth of its time.
LARGE_WEIGHT_BYTES: Final = 500_000_000
# Shares of the time with half the cores. A smaller gain does not justify the CPU time of the other half: for a single
# sequence up to twice as much, for many a fifth more.
WORTHWHILE_ALONE: Final = 0.9
WORTHWHILE_UNDER_LOAD: Final = 0.66
TRIAL_S: Final = 0.3  # for each number of threads
MIN_TRIALS: Final = 3


class CpuThreads:
    """Decides by the model's size: a large model always uses all cores, a small one may use half of them.

    With a small model a second thread makes a step little faster, or not at all, at twice the CPU time. Under load
    the other cores decode images and draw masks. A short measurement decides, for a single sequence and for many.

    OMP_NUM_THREADS overrides both. OpenMP keeps a team of threads for each computing thread, and several teams on the
    same cores slow each other down: only the engine thread and the vision tower's use this.
    """

    def __init__(self, weight_bytes: int, *, vary: bool = True) -> None:
        """Args:
        weight_bytes: size of the model.
        vary: if False the number never changes, since torch.compile compiles again for each number of threads.
        """
        self._cores = available_cores()  # once: it reads files
        fixed = os.environ.get(OMP_NUM_THREADS, "")
        if fixed.isdigit() and int(fixed) > 0:
            self._lone = self._shared = int(fixed)
        elif weight_bytes >= LARGE_WEIGHT_BYTES:
            self._lone = self._shared = physical_cores()
        else:
            self._shared = max(1, self._cores // 2)
            self._lone = self._cores if vary else self._shared
        self._large = weight_bytes >= LARGE_WEIGHT_BYTES
        self._used = threading.local()  # PyTorch's number is a thread's own

    @property
    def leave_cores(self) -> bool:
        """Whether steps of several sequences leave cores to others."""
        return not self._large and self._shared < self._cores

    def set_for(self, sequences: int) -> None:
        """Sets the caller's threads for this number of running sequences."""
        self._use(self._lone if sequences <= 1 else self._shared)

    def calibrate(self, *, alone: Callable[[], object], under_load: Callable[[], object]) -> None:
        """Measures where all cores are worth it.

        Args:
            alone: a decode step of one sequence.
            under_load: what several requests cost while all slots are in use.
        """
        half, all_cores = self._shared, self._lone
        if half != all_cores:
            if self._gain(alone, half, all_cores) > WORTHWHILE_ALONE:
                self._lone = half
            if self._gain(under_load, half, all_cores) < WORTHWHILE_UNDER_LOAD:
                self._shared = self._lone = all_cores

    def _gain(self, step: Callable[[], object], half: int, all_cores: int) -> float:
        """Returns the time with all cores relative to half of them."""
        return self._time(step, all_cores) / self._time(step, half)

    def _time(self, step: Callable[[], object], threads: int) -> float:
        """Returns the median time of a step in seconds."""
        self._use(threads)
        step()
        trials: list[float] = []
        while len(trials) < MIN_TRIALS or sum(trials) < TRIAL_S:
            started = time.perf_counter()
            step()
            trials.append(time.perf_counter() - started)
        return statistics.median(trials)

    def _use(self, threads: int) -> None:
        if threads != getattr(self._used, "threads", 0):
            torch.get_num_threads()  # at its first call in a thread PyTorch takes over another thread's number
            torch.set_num_threads(threads)
            self._used.threads = threads
