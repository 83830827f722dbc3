"""Gives the memory of what was loaded back."""

import ctypes
import gc

import torch


def free_gpu_bytes(device: torch.device) -> int:
    """What is free on a GPU; what torch keeps for nobody is handed back before."""
    release_memory()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes


def release_memory() -> None:
    """Frees what nobody refers to, and hands freed memory to the system: allocators keep it for themselves."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
