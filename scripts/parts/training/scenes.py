"""The layout of scenes, and how they are drawn."""

import math
import random
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parts.training.backgrounds import draw_background
from parts.training.sprites import sprite

HALF_COVERED: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One object's placement in a scene.

    Attributes:
        name: the kind's name.
        colour: one of the kind's colours.
        centre: x and y in pixels of the scene.
        side: side of the square around the upright object, in pixels of the scene.
        angle_degrees: rotation, clockwise.
        mirrored: whether left and right are swapped, before the rotation.
    """

    name: str
    colour: str | None
    centre: tuple[float, float]
    side: float
    angle_degrees: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """A scene before it is drawn: its size (width, height), and its objects, later ones over earlier ones."""

    size: tuple[int, int]
    background_seed: int
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn scene.

    Attributes:
        pixels: uint8[H, W, 3].
        masks: bool[N, H, W], the visible part of each object.
        visible: float[N], the visible share of each object's area, in [0, 1].
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    visible: NDArray[np.float64]


def draw(layout: Layout, *, output_size: tuple[int, int] | None = None) -> Drawn:
    """Draws a scene; scales it to `output_size` (width, height) if one is given."""
    width, height = output_size or layout.size
    scale = (width / layout.size[0], height / layout.size[1])
    canvas = draw_background(random.Random(layout.background_seed), (width, height))
    alphas = np.zeros((len(layout.placements), height, width), np.float32)
    full_areas = np.zeros(len(layout.placements))
    for index, placement in enumerate(layout.placements):
        patch, (left, top) = placed(placement, scale)
        full_areas[index] = (patch[..., 3] > HALF_COVERED).sum()
        rows, columns, inside = _overlap((patch.shape[0], patch.shape[1]), (left, top), (height, width))
        patch = patch[inside]
        canvas[rows, columns] = canvas[rows, columns] * (1 - patch[..., 3:]) + patch[..., :3]
        alphas[:index, rows, columns] *= 1 - patch[..., 3]
        alphas[index, rows, columns] = patch[..., 3]
    masks = alphas > HALF_COVERED
    visible = masks.sum(axis=(1, 2)) / np.maximum(full_areas, 1)
    pixels = (canvas * 255).clip(0, 255).round().astype(np.uint8)
    return Drawn(pixels, masks, visible)


def placed(placement: Placement, scale: tuple[float, float]) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """An object's pixels in a scene that is scaled by two factors (x, y).

    Returns:
        float32[h, w, 4] in [0, 1], colours multiplied by alpha; and the position (x, y) of its upper left pixel.
    """
    level = sprite(placement.name, placement.colour).level_for(placement.side * max(scale))
    angle = math.radians(placement.angle_degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    reach = (abs(cosine) + abs(sine)) * placement.side / 2
    left, top = (math.floor((centre - reach) * factor) for centre, factor in zip(placement.centre, scale, strict=True))
    right, bottom = (
        math.ceil((centre + reach) * factor) for centre, factor in zip(placement.centre, scale, strict=True)
    )
    # From a pixel of the patch to one of the sprite: unscale, move to the centre, turn back, mirror, zoom.
    zoom = level.width / placement.side
    mirror = -zoom if placement.mirrored else zoom
    offset = (left / scale[0] - placement.centre[0], top / scale[1] - placement.centre[1])
    matrix = (
        mirror * cosine / scale[0],
        mirror * sine / scale[1],
        mirror * (cosine * offset[0] + sine * offset[1]) + level.width / 2,
        -zoom * sine / scale[0],
        zoom * cosine / scale[1],
        zoom * (-sine * offset[0] + cosine * offset[1]) + level.height / 2,
    )
    patch = level.transform(
        (right - left, bottom - top), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(0, 0, 0, 0)
    )
    pixels = np.asarray(patch, np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    return pixels, (left, top)


def _overlap(
    patch: tuple[int, int], corner: tuple[int, int], canvas: tuple[int, int]
) -> tuple[slice, slice, tuple[slice, slice]]:
    """The canvas's rows and columns that a patch covers, and the part of the patch that lies on them."""
    top, bottom = max(corner[1], 0), min(corner[1] + patch[0], canvas[0])
    left, right = max(corner[0], 0), min(corner[0] + patch[1], canvas[1])
    inside = (
        slice(top - corner[1], max(bottom, top) - corner[1]),
        slice(left - corner[0], max(right, left) - corner[0]),
    )
    return slice(top, max(bottom, top)), slice(left, max(right, left)), inside
