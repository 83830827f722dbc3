"""Tile sizes of the fused attention kernel for a GPU's shared memory.

A block of the kernel keeps a tile of queries, and a tile of keys and one of values for each running stage of its
pipeline. PyTorch's own tiles suit an A100; compute capability 8.6, 8.9 and 12.0 (A10, L4, L40S, RTX) have less.

The tiles here are computed, not measured on such a GPU.
"""

from dataclasses import dataclass
from typing import Final

from torch.nn.attention.flex_attention import FlexKernelOptions

# PyTorch 2.13's own for compute capability 8.x (template_heuristics/triton.py): 32 queries, 64 keys, 3 stages, 256
# bfloat16 numbers each. An A100 has 163 KiB, an H100 227.
OWN_TILES_BYTES: Final = 144 * 1024
# GPUs with less shared memory than compute capability 8.6 have no bfloat16; the kernel was not tried there.
LEAST_BYTES: Final = 99 * 1024
_RESERVE_BYTES: Final = 4 * 1024  # upper bound for reductions between the warps of a block


@dataclass(frozen=True, slots=True)
class Tiles:
    """Queries and keys in a tile, both powers of two from 16 up, and the stages of the pipeline."""

    queries: int
    keys: int
    stages: int

    def shared_memory_bytes(self, *, head_dim: int, itemsize: int) -> int:
        """What a block keeps: its queries, and keys and values for each stage but the one that is computed on."""
        loads_under_way = max(1, self.stages - 1)
        return (self.queries + 2 * self.keys * loads_under_way) * head_dim * itemsize

    @property
    def kernel_options(self) -> FlexKernelOptions:
        """As flex_attention calls them."""
        return {"BLOCK_M": self.queries, "BLOCK_N": self.keys, "num_stages": self.stages}

    def __str__(self) -> str:
        return f"{self.queries}x{self.keys}x{self.stages}"


# The best first. PyTorch has the first one itself for bfloat16 and a head_dim of 256 on compute capability 12.0.
_PREFILL_TILES: Final = (Tiles(32, 64, 2), Tiles(32, 32, 2), Tiles(16, 32, 2), Tiles(16, 16, 2), Tiles(16, 16, 1))
_DECODE_TILES: Final = (Tiles(16, 64, 1), Tiles(16, 32, 1), Tiles(16, 16, 1))  # the first is PyTorch's own


@dataclass(frozen=True, slots=True)
class FusedTiles:
    """Of prefills, with many queries for each head, and of decode steps, with one."""

    prefill: Tiles
    decode: Tiles

    def __str__(self) -> str:
        return f"{self.prefill}_{self.decode}"


def own_tiles_fit(shared_memory_bytes: int) -> bool:
    """Whether PyTorch's own tiles fit this much shared memory per block."""
    return shared_memory_bytes >= OWN_TILES_BYTES


def tiles_within(shared_memory_bytes: int, *, head_dim: int, itemsize: int) -> FusedTiles | None:
    """Returns tiles for a GPU where PyTorch's own do not fit; None if none fit.

    Args:
        shared_memory_bytes: the most that a block may have.
        head_dim: numbers in a query, key or value.
        itemsize: bytes of a number.
    """
    if shared_memory_bytes < LEAST_BYTES:
        return None
    prefill, decode = (
        _first_within(shared_memory_bytes - _RESERVE_BYTES, tiles, head_dim=head_dim, itemsize=itemsize)
        for tiles in (_PREFILL_TILES, _DECODE_TILES)
    )
    return FusedTiles(prefill, decode) if prefill and decode else None


def _first_within(limit_bytes: int, tiles: tuple[Tiles, ...], *, head_dim: int, itemsize: int) -> Tiles | None:
    fitting = (each for each in tiles if each.shared_memory_bytes(head_dim=head_dim, itemsize=itemsize) <= limit_bytes)
    return next(fitting, None)
