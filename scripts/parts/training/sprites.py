"""Pictures of single objects for scenes, in several sizes and colours."""

import colorsys
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parts.training.atlas import TILE, read_atlas
from parts.training.names import COLOURS, KINDS_BY_NAME, SHAPE_FAMILY
from parts.training.shapes import draw_shape

_SHAPE_SIDE: Final = 256
_SMALLEST_LEVEL: Final = 14
_HUE_RANGE: Final = 0.12  # of a turn: how far from the object's own colour a pixel still counts as painted
_MIN_SATURATION: Final = 0.25


@dataclass(frozen=True, slots=True)
class Sprite:
    """One object in one colour.

    Attributes:
        levels: RGBA images, each half the size of the one before.
    """

    levels: tuple[Image.Image, ...]

    def level_for(self, side_px: float) -> Image.Image:
        """The smallest image that need not be enlarged to be drawn with this side, or the largest there is."""
        fitting = [level for level in self.levels if level.width >= side_px]
        return fitting[-1] if fitting else self.levels[0]


@cache
def sprite(name: str, colour: str | None) -> Sprite:
    """The picture of an object, by its kind's name and one of the kind's colours."""
    kind = KINDS_BY_NAME[name]
    if kind.family == SHAPE_FAMILY:
        assert colour is not None
        alpha = draw_shape(name, _SHAPE_SIDE)
        picture = Image.new("RGB", alpha.size, COLOURS[colour])
        picture.putalpha(alpha)
    else:
        picture = _tiles()[name]
        if colour != kind.colour:
            assert colour is not None
            assert kind.colour is not None
            picture = repaint(picture, kind.colour, colour)
    return Sprite(_levels(picture))


def repaint(picture: Image.Image, old: str, new: str) -> Image.Image:
    """Changes the pixels of one colour to another one, and keeps their shades."""
    pixels = np.asarray(picture)
    hue, saturation, value = (channel / 255.0 for channel in np.moveaxis(_hsv(picture), -1, 0))
    old_hue, new_hue = _hue(old), _hue(new)
    distance = np.abs((hue - old_hue + 0.5) % 1.0 - 0.5)
    painted = (distance < _HUE_RANGE) & (saturation > _MIN_SATURATION)
    _, new_saturation, new_value = colorsys.rgb_to_hsv(*(channel / 255 for channel in COLOURS[new]))
    changed = np.stack(
        [
            np.full_like(hue, new_hue),
            np.clip(saturation * new_saturation / max(float(saturation[painted].mean()), 0.01), 0, 1),
            np.clip(value * new_value / max(float(value[painted].mean()), 0.01), 0, 1),
        ],
        axis=-1,
    )
    repainted = np.asarray(Image.fromarray((changed * 255).astype(np.uint8), "HSV").convert("RGB"))
    colours = np.where(painted[..., None], repainted, pixels[..., :3])
    return Image.fromarray(np.concatenate([colours, pixels[..., 3:]], axis=-1))


def _hsv(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture.convert("RGB").convert("HSV"))


def _hue(colour: str) -> float:
    return colorsys.rgb_to_hsv(*(channel / 255 for channel in COLOURS[colour]))[0]


@lru_cache(maxsize=1)
def _tiles() -> dict[str, Image.Image]:
    return read_atlas()


def _levels(picture: Image.Image) -> tuple[Image.Image, ...]:
    assert picture.width in (TILE, _SHAPE_SIDE)
    levels = [picture]
    while levels[-1].width // 2 >= _SMALLEST_LEVEL:
        side = levels[-1].width // 2
        levels.append(levels[-1].resize((side, side), Image.Resampling.BOX))
    return tuple(levels)
