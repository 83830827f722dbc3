"""Samples scenes: number, kinds, sizes and positions of objects."""

import math
import random
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parts.training.lots import happens
from parts.training.names import EVERYDAY_FAMILY, KINDS, KINDS_BY_NAME, SHAPE_FAMILY, Kind, colours_of
from parts.training.scenes import Drawn, Layout, Placement, draw

SIZES: Final = ((320, 240), (240, 240), (320, 320), (320, 200), (240, 320))  # width and height
_MIN_VISIBLE: Final = 0.55
_MIN_AREA: Final = 0.0015  # of the picture
_PLACE_ATTEMPTS: Final = 30
_MIN_CONTRAST: Final = 60.0  # sum over red, green and blue, of 255 each
_STEP: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneStyle:
    """The distribution of scenes.

    Attributes:
        counts: weights of 1, 2, ... objects.
        min_side: smallest side of an object, as a share of the picture's shorter side.
        max_side: largest side, likewise.
        max_turn_degrees: largest rotation of half of the objects.
        far_turn_degrees: largest rotation of the others.
        everyday_share: share of everyday objects.
        alike_share: share of objects with the kind or the colour of an earlier one.
        overlap: smallest distance of two objects: 1: their circles touch; 0: they may cover each other.
    """

    counts: tuple[float, ...] = (3, 4, 4, 3, 2, 1)
    min_side: float = 0.08
    max_side: float = 0.9
    max_turn_degrees: float = 12.0
    far_turn_degrees: float = 60.0
    everyday_share: float = 0.55
    alike_share: float = 0.4
    overlap: float = 0.8


def sample_scene(seed: int, style: SceneStyle, *, output_size: tuple[int, int] | None = None) -> tuple[Layout, Drawn]:
    """Samples a scene in which every object is visible; the same for the same arguments.

    Args:
        seed: random seed.
        style: the distribution of scenes.
        output_size: width and height of the drawing; None for the scene's own.
    """
    chance = random.Random(seed)
    while True:
        layout = _sample_layout(chance, style)
        drawn = draw(layout, output_size=output_size)
        areas = drawn.masks.mean(axis=(1, 2))
        seen = bool(layout.placements) and (drawn.visible > _MIN_VISIBLE).all() and (areas > _MIN_AREA).all()
        if seen and _stands_out(layout, drawn):
            return layout, drawn


def _sample_layout(chance: random.Random, style: SceneStyle) -> Layout:
    size = chance.choice(SIZES)
    count = chance.choices(range(1, len(style.counts) + 1), weights=style.counts)[0]
    placements: list[Placement] = []
    for _ in range(count):
        kind, colour = _sample_kind(chance, style, placements)
        placement = _sample_place(chance, style, size, placements, kind, colour, count)
        if placement is not None:
            placements.append(placement)
    return Layout(size, chance.getrandbits(32), tuple(placements))


def _sample_kind(chance: random.Random, style: SceneStyle, before: list[Placement]) -> tuple[Kind, str | None]:
    if before and happens(chance, style.alike_share):
        other = chance.choice(before)
        if happens(chance, 0.6):  # the same kind, most often in another colour
            kind = KINDS_BY_NAME[other.name]
            colours = [colour for colour in colours_of(kind) if colour != other.colour]
            return kind, chance.choice(colours) if colours and happens(chance, 0.7) else other.colour
        alike = [
            kind for kind in KINDS if other.colour in colours_of(kind) and other.colour and kind.name != other.name
        ]
        if alike:
            return chance.choice(alike), other.colour
    family = EVERYDAY_FAMILY if happens(chance, style.everyday_share) else SHAPE_FAMILY
    kind = chance.choice([kind for kind in KINDS if kind.family == family])
    return kind, chance.choice(colours_of(kind))


def _sample_place(
    chance: random.Random,
    style: SceneStyle,
    size: tuple[int, int],
    before: list[Placement],
    kind: Kind,
    colour: str | None,
    count: int,
) -> Placement | None:
    """Finds a place where the object covers no other one by much; None if none was found."""
    shorter = min(size)
    largest = max(style.max_side / math.sqrt(count), 2 * style.min_side)
    turn = style.max_turn_degrees if happens(chance, 0.5) else style.far_turn_degrees
    cut = happens(chance, 0.15)
    for _ in range(_PLACE_ATTEMPTS):
        side = shorter * math.exp(_between(chance, math.log(style.min_side), math.log(largest)))
        margin = 0.25 * side if cut else 0.5 * side
        if any(2 * margin >= length for length in size):
            continue
        centre = (chance.uniform(margin, size[0] - margin), chance.uniform(margin, size[1] - margin))
        if all(math.dist(centre, other.centre) > style.overlap * (side + other.side) / 2 for other in before):
            return Placement(
                name=kind.name,
                colour=colour,
                centre=centre,
                side=side,
                angle_degrees=chance.uniform(-turn, turn),
                mirrored=kind.family == EVERYDAY_FAMILY and happens(chance, 0.5),
            )
    return None


def _between(chance: random.Random, low: float, high: float) -> float:
    """A random number between two; values near `high` are more frequent."""
    return low + (high - low) * math.pow(chance.random(), 0.6)


def _stands_out(layout: Layout, drawn: Drawn) -> bool:
    """Whether each plain shape contrasts with its surroundings; every third pixel is checked."""
    pixels = drawn.pixels[::_STEP, ::_STEP].astype(np.float32)
    for placement, mask in zip(layout.placements, drawn.masks[:, ::_STEP, ::_STEP], strict=True):
        if KINDS_BY_NAME[placement.name].family != SHAPE_FAMILY or not mask.any():
            continue
        around = pixels[_grown(mask) & ~mask]
        if len(around) and abs(around - pixels[mask].mean(axis=0)).sum(axis=1).mean() < _MIN_CONTRAST:
            return False
    return True


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = mask.copy()
    for axis in (0, 1):
        grown |= np.roll(mask, 1, axis) | np.roll(mask, -1, axis)
    return grown
