"""Finds Triton's processes, checks that they live, and makes children end with their parent."""

import contextlib
import ctypes
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import psutil

STUB_NAME: Final = "triton_python_backend_stub"
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # where the Python backend keeps its regions

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_END_GROUP_AFTER_PARENT: Final = 'read -r word || { kill -s KILL -- "-$1"; rm -f "$2"*; }'


def when_parent_dies(number: signal.Signals) -> Callable[[], object]:
    """For preexec_fn: the child gets this signal when its parent dies for any reason."""
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, number)


class GroupGuard:
    """A small process that kills a process group and removes its files if this process dies without doing so.

    A signal to the server alone is not enough, because Python stubs outlive a killed server.
    """

    def __init__(self, group_id: int, files_prefix: Path) -> None:
        # The pipe closes when this process ends for any reason; a word written before means that all is cleaned up.
        self._process = subprocess.Popen(
            ["sh", "-c", _END_GROUP_AFTER_PARENT, "guard", str(group_id), str(files_prefix)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Call it when the group has ended cleanly; further calls do nothing."""
        if self._process.returncode is None:
            self._process.communicate(b"dismissed\n")


def stubs_below(pid: int) -> list[psutil.Process]:
    """Triton's stub processes below a process; stubs that end during the search are left out."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if is_stub(child)]


def is_stub(process: psutil.Process) -> bool:
    """Whether a process is a Triton stub, which runs a Python model."""
    try:
        return bool(process.name().startswith(STUB_NAME[:15]))  # the kernel truncates names to 15 characters
    except psutil.NoSuchProcess:
        return False


def served_model(command: list[str]) -> str:
    """The model that a stub serves: its command line holds `.../<model>/<version>/model.py`."""
    paths = [Path(word) for word in command if word.endswith("model.py")]
    return paths[0].parent.parent.name if paths else "?"


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(processes: set[psutil.Process], timeout_s: float) -> None:
    """Kills the processes that still live, and waits for all of them."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=timeout_s)
