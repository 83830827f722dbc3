"""Files that are mapped into memory, as safetensors' are: a tensor on the CPU is a view of its file, not a copy."""

import ctypes
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch

_MAPS: Final = Path("/proc/self/maps")
# Addresses, permissions, offset, device, inode, path: https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html
_FILE: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +/", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MappedFiles:
    """The addresses that belong to mapped files, first and behind the last."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of_this_process(cls, maps: Path = _MAPS) -> Self:
        """As they are now; none where the system does not say."""
        try:
            found = _FILE.findall(maps.read_text())
        except OSError:
            found = []
        return cls(tuple((int(first, 16), int(last, 16)) for first, last in found))

    def give_back(self, tensor: torch.Tensor) -> int:
        """Takes the pages that lie wholly within a mapped tensor out of memory; its numbers may not be needed again.

        Returns:
            How many bytes; 0 for a tensor that is a copy.
        """
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if not any(start <= first and last <= end for start, end in self.ranges):
            return 0
        first, last = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
        size = max(0, last - first)
        if size and ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_DONTNEED):
            return 0
        return size
