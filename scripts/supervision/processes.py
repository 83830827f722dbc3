"""Small things about processes that both serve.py and demo.py need."""

import ctypes
import signal
from collections.abc import Callable
from functools import partial

import psutil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def when_parent_dies(number: signal.Signals) -> Callable[[], object]:
    """For preexec_fn: the child gets this signal when its parent dies, however that happens."""
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, number)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that is dead but not yet waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
