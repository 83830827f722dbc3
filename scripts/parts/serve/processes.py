"""What the scripts know of processes: Triton's own, whether they live, and that they end with their parent."""

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
    """For preexec_fn: the child gets this signal when its parent dies, however that happens."""
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, number)


class GroupGuard:
    """A small process that ends a process group, and its files, when this process has died without doing so itself.

    Python stubs outlive a killed server, so a signal to the server alone would not be enough.
    """

    def __init__(self, group_id: int, files_prefix: Path) -> None:
        # The pipe's end closes with this process, however it ends; a word on it means that all went well.
        self._process = subprocess.Popen(
            ["sh", "-c", _END_GROUP_AFTER_PARENT, "guard", str(group_id), str(files_prefix)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """The group has been ended in order; a second time does nothing."""
        if self._process.returncode is None:
            self._process.communicate(b"dismissed\n")


def stubs_below(pid: int) -> list[psutil.Process]:
    """Triton's processes for Python models below a process; those that vanish meanwhile are left out, no others."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if is_stub(child)]


def is_stub(process: psutil.Process) -> bool:
    """Whether a process is one of Triton's for a Python model."""
    try:
        return bool(process.name().startswith(STUB_NAME[:15]))  # the kernel cuts names
    except psutil.NoSuchProcess:
        return False


def served_model(command: list[str]) -> str:
    """The model that a stub serves: its command line holds `.../<model>/<version>/model.py`."""
    paths = [Path(word) for word in command if word.endswith("model.py")]
    return paths[0].parent.parent.name if paths else "?"


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that is dead but not yet waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(processes: set[psutil.Process], timeout_s: float) -> None:
    """Kills processes, those that are dead already excepted, and waits for them."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=timeout_s)
