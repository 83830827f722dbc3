"""Measures free memory, and releases memory of models that were loaded."""

import ctypes
import gc

import psutil
import torch

from paligemma_engine.memory.cgroups import free_bytes_of_container


def free_gpu_bytes(device: torch.device) -> int:
    """Returns the free bytes of a GPU, after releasing torch's unused cache."""
    release_memory()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes


def free_host_bytes() -> int:
    """Returns the host memory that this process can still have, within its container's limit."""
    available: int = psutil.virtual_memory().available
    in_container = free_bytes_of_container()
    return available if in_container is None else min(available, in_container)


def release_memory() -> None:
    """Frees unreachable objects, and returns freed memory to the system, which allocators do not do by themselves."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
