"""Draws backgrounds of scenes: plain, shaded, cloudy, striped or checked, all of low contrast."""

import random
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parts.training.lots import happens

_NOISE: Final = 0.02  # largest standard deviation, for colours in [0, 1]
_NOISE_SIDE: Final = 509  # pixels
_PALE: Final = (0.45, 0.9)
_ANY: Final = (0.15, 0.95)


def draw_background(chance: random.Random, size: tuple[int, int]) -> NDArray[np.float32]:
    """float32[H, W, 3] in about [0, 1], for a size (width, height)."""
    draw = chance.choices((_gradient, _clouds, _stripes), weights=(4, 3, 2))[0]
    pixels = draw(chance, size)
    if happens(chance, 0.5):
        pixels += _noise(chance, size)[..., None] * chance.uniform(0.0, _NOISE)
    return pixels


def _noise(chance: random.Random, size: tuple[int, int]) -> NDArray[np.float32]:
    """float32[H, W] of variance 1: a crop of one noise picture, which is tiled if it is too small."""
    top, left = chance.randrange(_NOISE_SIDE), chance.randrange(_NOISE_SIDE)
    rows, columns = np.arange(top, top + size[1]) % _NOISE_SIDE, np.arange(left, left + size[0]) % _NOISE_SIDE
    part: NDArray[np.float32] = _noise_picture()[rows][:, columns]
    return part


@lru_cache(maxsize=1)
def _noise_picture() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((_NOISE_SIDE, _NOISE_SIDE), np.float32)


def _colour(chance: random.Random) -> NDArray[np.float32]:
    """A greyish colour, most often a pale one."""
    low, high = _PALE if happens(chance, 0.8) else _ANY
    grey = chance.uniform(low, high)
    return np.array([grey + chance.uniform(-0.12, 0.12) for _ in range(3)], np.float32).clip(0, 1)


def _gradient(chance: random.Random, size: tuple[int, int]) -> NDArray[np.float32]:
    first, second = _colour(chance), _colour(chance)
    across, down = chance.uniform(-1, 1), chance.uniform(-1, 1)
    ramp = np.linspace(0, across, size[0], dtype=np.float32) + np.linspace(0, down, size[1], dtype=np.float32)[:, None]
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
    return _mixed(first, second, ramp)


def _clouds(chance: random.Random, size: tuple[int, int]) -> NDArray[np.float32]:
    first, second = _colour(chance), _colour(chance)
    cells = chance.randint(3, 9)
    coarse = np.random.default_rng(chance.getrandbits(32)).random((cells, cells), np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    return _mixed(first, second, smooth)


def _stripes(chance: random.Random, size: tuple[int, int]) -> NDArray[np.float32]:
    """Stripes of two colours that differ little, or checks where they cross."""
    first = _colour(chance)
    second = (first + chance.choice((-1, 1)) * chance.uniform(0.04, 0.12)).clip(0, 1)
    period = chance.uniform(0.05, 0.25) * min(size)
    columns, rows = np.arange(size[0]) // period, np.arange(size[1])[:, None] // period
    odd = (columns * chance.randint(0, 1) + rows * chance.randint(0, 1)) % 2
    pattern = np.broadcast_to(odd, (size[1], size[0])).astype(np.float32)
    return _mixed(first, second, pattern)


def _mixed(first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blends two colours by a share float[H, W] in [0, 1]."""
    pixels: NDArray[np.float32] = first + share[..., None] * (second - first)
    return pixels
