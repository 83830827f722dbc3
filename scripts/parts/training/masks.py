"""Masks as the VQ-VAE gets them: the visible part of an object, cropped to its box, scaled to 64x64."""

import math
import random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask_vae.layout import MASK_SIZE
from parts.scenes import bounds
from parts.training.lots import happens
from parts.training.names import KINDS, colours_of
from parts.training.scenes import HALF_COVERED, Placement, placed

_SIDES: Final = (40.0, 240.0)  # pixels
_STRETCH: Final = (0.65, 1.5)
_CUT_SHARE: Final = 0.3
_BLOB_SHARE: Final = 0.1
_MIN_PIXELS: Final = 40


def crop_mask(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """bool[H, W], not empty -> float32[64, 64] in [0, 1]: its box, scaled with antialiasing."""
    x_min, y_min, x_max, y_max = bounds(mask)
    crop = Image.fromarray(mask[y_min:y_max, x_min:x_max].astype(np.float32))
    return np.asarray(crop.resize((MASK_SIZE, MASK_SIZE), Image.Resampling.BILINEAR))


def sample_masks(seed: int, count: int) -> NDArray[np.float32]:
    """float32[count, 64, 64] in [0, 1]: objects turned, stretched, cut; the same for the same arguments."""
    chance = random.Random(seed)
    return np.stack([crop_mask(_sample_mask(chance)) for _ in range(count)])


def _sample_mask(chance: random.Random) -> NDArray[np.bool_]:
    while True:
        mask = _blob(chance) if happens(chance, _BLOB_SHARE) else _object(chance)
        if happens(chance, _CUT_SHARE):
            mask = _cut(chance, mask)
        if mask.sum() >= _MIN_PIXELS:
            return mask


def _object(chance: random.Random) -> NDArray[np.bool_]:
    kind = chance.choice(KINDS)
    turn = chance.choice((12, 12, 60, 180))
    placement = Placement(
        name=kind.name,
        colour=colours_of(kind)[0],
        centre=(0.0, 0.0),
        side=math.exp(chance.uniform(*(math.log(side) for side in _SIDES))),
        angle_degrees=chance.uniform(-turn, turn),
        mirrored=happens(chance, 0.5),
    )
    patch, _ = placed(placement, (math.exp(chance.uniform(*(math.log(factor) for factor in _STRETCH))), 1.0))
    return patch[..., 3] > HALF_COVERED


def _blob(chance: random.Random) -> NDArray[np.bool_]:
    """A random smooth shape, so that the VQ-VAE also learns outlines that no drawn object has."""
    generator = np.random.default_rng(chance.getrandbits(32))
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radii = np.ones_like(angles)
    for wave in range(1, 8):
        radii += generator.normal(0, 0.3 / wave) * np.cos(wave * angles + generator.uniform(0, 2 * np.pi))
    radii = radii.clip(0.15, None) / radii.max()
    rows, columns = np.mgrid[-1:1:96j, -1:1:96j]
    limit = np.interp(np.arctan2(rows, columns) % (2 * np.pi), angles, radii, period=2 * np.pi)
    return np.asarray(np.hypot(rows, columns) < limit)


def _cut(chance: random.Random, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Removes a part of a mask: beyond a straight line, like the picture's border, or within a disc, like an object."""
    rows, columns = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
    height, width = mask.shape
    if happens(chance, 0.5):
        edge = chance.uniform(0.1, 0.4)
        hidden = chance.choice(
            (rows < edge * height, rows > (1 - edge) * height, columns < edge * width, columns > (1 - edge) * width)
        )
    else:
        angle, away, radius = chance.uniform(0, 2 * math.pi), chance.uniform(0.35, 0.6), chance.uniform(0.15, 0.4)
        across = columns / width - 0.5 - away * math.cos(angle)
        down = rows / height - 0.5 - away * math.sin(angle)
        hidden = np.hypot(across, down) < radius
    return np.asarray(mask & ~hidden)
