"""Memory of a server's processes: resident and shared."""

import psutil

from parts.serve.processes import SHARED_MEMORY, is_stub, served_model


def resident_bytes(root: int) -> dict[str, int]:
    """Resident memory of the server and of each stub below a process, by name."""
    sizes = {}
    for process in psutil.Process(root).children(recursive=True):
        if process.name() == "tritonserver":
            sizes["tritonserver"] = process.memory_info().rss
        elif is_stub(process):
            sizes[f"{served_model(process.cmdline())} {process.pid}"] = process.memory_info().rss
    return sizes


def shared_memory_bytes() -> int:
    """Bytes that all files in shared memory actually occupy."""
    return sum(each.stat().st_blocks * 512 for each in SHARED_MEMORY.iterdir() if each.is_file())
