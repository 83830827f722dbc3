"""How much memory is free, and giving back that of what was loaded."""

import ctypes
import gc

import psutil
import torch

from paligemma_engine.memory.cgroups import free_bytes_of_container


def free_gpu_bytes(device: torch.device) -> int:
    """What is free on a GPU; what torch keeps for nobody is handed back before."""
    release_memory()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes


def free_host_bytes() -> int:
    """What this process can have of the host's memory, within its container's limit."""
    available: int = psutil.virtual_memory().available
    in_container = free_bytes_of_container()
    return available if in_container is None else min(available, in_container)


def release_memory() -> None:
    """Frees what nobody refers to, and hands freed memory to the system: allocators keep it for themselves."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
