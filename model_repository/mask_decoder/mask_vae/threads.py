"""The threads of XLA in this process."""

import os
from typing import Final

_THREADS: Final = "PJRT_NPROC"  # read by XLA when JAX is first used


def use_one_thread() -> None:
    """Makes JAX compute in one thread, unless PJRT_NPROC says otherwise. Takes effect before JAX's first use only.

    One mask takes a millisecond. Splitting it among threads adds half of that in processor time, which is taken from
    the engine on the same cores.
    """
    os.environ.setdefault(_THREADS, "1")
