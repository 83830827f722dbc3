"""Memory-mapped files, such as safetensors: a tensor on the CPU is a view of its file, not a copy."""

import ctypes
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch

_MAPS: Final = Path("/proc/self/smaps")
# A mapping's addresses, permissions, offset, device, inode and path, and how much of it was written to and so is no
# longer the file's: https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html
_FILE: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +/")
_WRITTEN: Final = re.compile(r"(Anonymous|Swap): +[1-9]")


@dataclass(frozen=True, slots=True)
class MappedFiles:
    """The address ranges [first, end) of unchanged mapped files."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of_this_process(cls, maps: Path = _MAPS) -> Self:
        """Reads the present ranges of this process; none if the system does not list them."""
        try:
            text = maps.read_text()
        except OSError:
            return cls(())
        entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)
        found = [_FILE.match(entry) for entry in entries if not _WRITTEN.search(entry)]
        return cls(tuple((int(each[1], 16), int(each[2], 16)) for each in found if each))

    def hold(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a view of a file."""
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        return any(start <= first and last <= end for start, end in self.ranges)

    def give_back(self, tensor: torch.Tensor) -> None:
        """Drops the pages of a mapped tensor from memory; a later read loads them from the file again."""
        if not self.hold(tensor):
            return
        first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if size > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_DONTNEED)
