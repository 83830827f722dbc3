"""Reads Label Studio's run lengths bit by bit, as their description has it."""

from collections.abc import Sequence

import numpy as np

CHANNELS = 4


def decoded(encoded: Sequence[int], hw: tuple[int, int]) -> np.ndarray:
    """bool[H, W]; all four channels must be the same, and 0 or 255."""
    bits = "".join(f"{byte:08b}" for byte in encoded)
    position = 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    values = read(32)
    value_bits = read(5) + 1
    length_bits = [read(4) + 1 for _ in range(4)]
    decoded: list[int] = []
    while len(decoded) < values:
        repeated = read(1)
        length = read(length_bits[read(2)]) + 1
        decoded += [read(value_bits)] * length if repeated else [read(value_bits) for _ in range(length)]
    pixels = np.array(decoded).reshape(*hw, CHANNELS)
    assert (pixels == pixels[:, :, :1]).all()
    assert set(np.unique(pixels)) <= {0, 255}
    assert len(bits) - position < 8, "there is more"
    return pixels[:, :, 0] == 255
