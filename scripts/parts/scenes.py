"""Draws pictures of coloured shapes that the demo model knows, for its sample and for tests.

python scripts/parts/scenes.py SEED PICTURE.png
"""

import io
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from parts.training.names import COLOURS
from parts.training.shapes import Point, outline

SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "diamond", "arrow")

SUPERSAMPLING: Final = 4  # shapes are drawn this many times larger and scaled down, for smooth edges
MAX_TILT_DEGREES: Final = 10.0
HALF_COVERED: Final = 127  # of 255
JPEG_QUALITY: Final = 90
GAP: Final = 6  # pixels between the bounds of two shapes


def bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x_min, y_min, x_max, y_max of a mask bool[H, W] in pixels; the maxima are exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def relative_bounds(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """The same as fractions of width and height, in [0, 1]."""
    height, width = mask.shape
    x_min, y_min, x_max, y_max = bounds(mask)
    return x_min / width, y_min / height, x_max / width, y_max / height


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape: its name and its true mask bool[H, W]."""

    colour: str
    shape: str
    mask: NDArray[np.bool_]

    @property
    def name(self) -> str:
        """Its name in prompts."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and the shapes in it; no two have the same colour or the same shape."""

    image: Image.Image
    objects: list[SceneObject]

    def jpeg(self) -> bytes:
        """The picture as JPEG, as a client would send it."""
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()


def draw_scene(seed: int, *, size: tuple[int, int] = (320, 240), object_count: int | None = None) -> Scene:
    """Draws up to four shapes side by side; the same picture for the same arguments."""
    generator = random.Random(seed)
    count = object_count or generator.randint(1, 4)
    image = _background(generator, size)
    objects: list[SceneObject] = []
    boxes: list[tuple[float, float, float, float]] = []
    names = zip(generator.sample(list(COLOURS), count), generator.sample(SHAPES, count), strict=True)
    for colour, shape in names:
        place = _free_place(generator, size, boxes)
        if place is None:
            continue
        box, tilt = place, generator.uniform(-MAX_TILT_DEGREES, MAX_TILT_DEGREES)
        coverage = _coverage(shape, box, tilt, size)
        image.paste(Image.new("RGB", size, COLOURS[colour]), mask=coverage)
        objects.append(SceneObject(colour, shape, np.asarray(coverage) > HALF_COVERED))
        boxes.append(box)
    return Scene(image, objects)


def _background(generator: random.Random, size: tuple[int, int]) -> Image.Image:
    """A vertical gradient between two pale, greyish colours."""
    top, bottom = ([generator.randint(150, 225) for _ in range(3)] for _ in range(2))
    ramp = np.linspace(0.0, 1.0, size[1])[:, None, None]
    pixels = np.array(top) * (1 - ramp) + np.array(bottom) * ramp
    return Image.fromarray(np.repeat(pixels, size[0], axis=1).astype(np.uint8))


def _free_place(
    generator: random.Random, size: tuple[int, int], taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, float, float] | None:
    for _ in range(200):
        side = generator.uniform(0.25, 0.42) * min(size)
        left, top = generator.uniform(2, size[0] - side - 2), generator.uniform(2, size[1] - side - 2)
        box = (left, top, left + side, top + side)
        if all(
            box[0] > other[2] + GAP or box[2] < other[0] - GAP or box[1] > other[3] + GAP or box[3] < other[1] - GAP
            for other in taken
        ):
            return box
    return None


def _coverage(
    shape: str, box: tuple[float, float, float, float], tilt_degrees: float, size: tuple[int, int]
) -> Image.Image:
    """8-bit gray: how much of each pixel a shape covers."""
    canvas = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    centre = ((box[0] + box[2]) / 2 * SUPERSAMPLING, (box[1] + box[3]) / 2 * SUPERSAMPLING)
    radius = (box[2] - box[0]) / 2 * SUPERSAMPLING
    draw = ImageDraw.Draw(canvas)
    bounds = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    if shape in ("circle", "ring", "crescent"):
        draw.ellipse(bounds, fill=255)
    if shape == "ring":
        hole = 0.55 * radius
        draw.ellipse((centre[0] - hole, centre[1] - hole, centre[0] + hole, centre[1] + hole), fill=0)
    elif shape == "crescent":
        bite = Image.new("L", canvas.size, 255)
        shifted = (
            bounds[0] + 0.55 * radius,
            bounds[1] - 0.1 * radius,
            bounds[2] + 0.55 * radius,
            bounds[3] - 0.1 * radius,
        )
        ImageDraw.Draw(bite).ellipse(shifted, fill=0)
        canvas = ImageChops.multiply(canvas, bite)
    elif shape != "circle":
        tilt = math.radians(tilt_degrees)
        draw.polygon([_placed(point, centre, radius, tilt) for point in outline(shape)], fill=255)
    return canvas.resize(size, Image.Resampling.BOX)


def _placed(point: Point, centre: Point, radius: float, tilt: float) -> Point:
    x, y = point[0] * radius, point[1] * radius
    return (
        centre[0] + x * math.cos(tilt) - y * math.sin(tilt),
        centre[1] + x * math.sin(tilt) + y * math.cos(tilt),
    )


if __name__ == "__main__":
    seed_text, picture = sys.argv[1:]
    scene = draw_scene(int(seed_text), size=(640, 480), object_count=4)
    scene.image.save(Path(picture))
    print(" ; ".join(found.name for found in scene.objects))
