"""What a server's processes hold: resident memory, and shared memory."""

from pathlib import Path
from typing import Final

import psutil

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # nothing is written there
STUB: Final = "triton_python_backend_stub"
MODEL_ARGUMENT: Final = 1


def resident_bytes(root: int) -> dict[str, int]:
    """Resident memory of the server and of each stub below a process, by name."""
    sizes = {}
    for process in psutil.Process(root).children(recursive=True):
        name = process.name()
        if name == "tritonserver":
            sizes[name] = process.memory_info().rss
        elif name.startswith(STUB[:15]):  # the kernel cuts names
            model = Path(process.cmdline()[MODEL_ARGUMENT]).parent.parent.name
            sizes[f"{model} {process.pid}"] = process.memory_info().rss
    return sizes


def shared_memory_bytes() -> int:
    """What all files in shared memory really occupy."""
    return sum(each.stat().st_blocks * 512 for each in SHARED_MEMORY.iterdir() if each.is_file())
