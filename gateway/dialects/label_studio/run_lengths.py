"""Label Studio's run-length format for brush masks.

A stream of bits (rle-pack of thi.ng/umbrella, which Label Studio's editor reads it with): 32 bits for the number of
values, 5 for a value's size in bits less 1, four times 4 for the sizes of lengths less 1. Then the runs: 1 bit that
says whether one value is repeated, 2 bits for which of the four sizes, the length less 1 in that size, and the value.
The values are the bytes of an RGBA image, row by row.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

CHANNELS: Final = 4
VALUE_BITS: Final = 8
LENGTH_BITS: Final = np.array([6, 9, 12, 16])
FOREGROUND: Final = 255  # in all channels
_HEAD_BITS: Final = 3  # head of a run: repeated, and which of the four sizes
_REPEATED: Final = 1
_MAX_LENGTH: Final = 1 << 16


def encode_mask(mask: NDArray[np.bool_]) -> list[int]:
    """Returns the encoded bytes of bool[H, W], each in [0, 255]."""
    lengths, values = _split_long(*_runs(mask))
    classes = np.searchsorted(1 << LENGTH_BITS, lengths)
    sizes = LENGTH_BITS[classes]
    codes = (_REPEATED << 2) | classes
    codes = (codes << sizes) | (lengths - 1)
    codes = (codes << VALUE_BITS) | values
    head = [(mask.size * CHANNELS, 32), (VALUE_BITS - 1, 5), *((int(bits) - 1, 4) for bits in LENGTH_BITS)]
    numbers, widths = (np.array(column) for column in zip(*head, strict=True))
    bits = _bits(np.concatenate([numbers, codes]), np.concatenate([widths, sizes + _HEAD_BITS + VALUE_BITS]))
    encoded: list[int] = np.packbits(bits).tolist()
    return encoded


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the lengths and values of the runs of bytes."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size) * CHANNELS
    return lengths, flat[starts] * np.int64(FOREGROUND)


def _split_long(lengths: NDArray[np.int64], values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits runs that are longer than the format's longest length."""
    pieces = -(-lengths // _MAX_LENGTH)
    split = np.full(pieces.sum(), _MAX_LENGTH)
    split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _MAX_LENGTH
    return split, np.repeat(values, pieces)


def _bits(numbers: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns bool[sum of widths]: each number in its width, the highest bit first."""
    places = widths[:, None] - 1 - np.arange(widths.max())
    bits = (numbers[:, None] >> np.maximum(places, 0)) & 1
    in_width: NDArray[np.bool_] = bits[places >= 0] == 1
    return in_width
