"""How many threads PyTorch uses on the CPU."""

import os
from typing import Final

import torch

OMP_NUM_THREADS: Final = "OMP_NUM_THREADS"


class CpuThreads:
    """All cores for a lone sequence, half of them as soon as there are more.

    A second thread makes one small step somewhat quicker and costs twice the CPU time; under load the other cores
    have images to decode and masks to draw. OMP_NUM_THREADS overrules it. The engine thread owns it: OpenMP keeps a
    team of threads for every thread that computes, and several teams on the same cores slow each other down by far.
    """

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        fixed = os.environ.get(OMP_NUM_THREADS, "")
        self._lone = int(fixed) if fixed.isdigit() else cores
        self._shared = int(fixed) if fixed.isdigit() else max(1, cores // 2)
        self._used = 0

    def use_for(self, sequences: int) -> None:
        """Before computing: how many sequences are running."""
        wanted = self._lone if sequences <= 1 else self._shared
        if wanted != self._used:
            torch.set_num_threads(wanted)
            self._used = wanted
