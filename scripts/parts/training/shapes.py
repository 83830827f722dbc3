"""The outlines of the coloured shapes."""

import math
from typing import Final

from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]

_SUPERSAMPLING: Final = 4
_CURVE_STEPS: Final = 60


def draw_shape(name: str, side: int) -> Image.Image:
    """8-bit gray [side, side]: how much of each pixel an upright shape covers; it nearly fills the square.

    Raises:
        ValueError: no such shape.
    """
    large = side * _SUPERSAMPLING
    canvas = Image.new("L", (large, large))
    if name in ("circle", "ring", "crescent"):
        _disc(canvas, (0.0, 0.0), 0.97, 255)
        if name == "ring":
            _disc(canvas, (0.0, 0.0), 0.55, 0)
        elif name == "crescent":
            bite = Image.new("L", canvas.size, 255)
            _disc(bite, (0.53, -0.1), 0.97, 0)
            canvas = ImageChops.multiply(canvas, bite)
    else:
        corners = [((x + 1) / 2 * large, (y + 1) / 2 * large) for x, y in outline(name)]
        ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return canvas.resize((side, side), Image.Resampling.BOX)


def outline(name: str) -> list[Point]:
    """The corners of a shape in a square from -1 to 1, y downwards.

    Raises:
        ValueError: no such shape, or one without corners.
    """
    match name:
        case "square":
            return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
        case "rectangle":
            return [(-0.97, -0.5), (0.97, -0.5), (0.97, 0.5), (-0.97, 0.5)]
        case "triangle":
            return [(0, -0.95), (0.95, 0.85), (-0.95, 0.85)]
        case "diamond":
            return [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]
        case "cross":
            quarter = [(-0.33, -0.95), (0.33, -0.95), (0.33, -0.33)]
            return [_turned(corner, turn) for turn in range(4) for corner in quarter]
        case "star":
            return _around((1.0, 0.42) * 5)
        case "pentagon":
            return _around((0.97,) * 5)
        case "arrow":
            return [(-0.95, -0.3), (0.1, -0.3), (0.1, -0.75), (0.95, 0), (0.1, 0.75), (0.1, 0.3), (-0.95, 0.3)]
        case "heart":
            return [_heart_point(2 * math.pi * step / _CURVE_STEPS) for step in range(_CURVE_STEPS)]
        case _:
            raise ValueError(f"no such shape: {name}")


def _around(radii: tuple[float, ...]) -> list[Point]:
    """Corners at equal angles, the first at the top."""
    angles = [2 * math.pi * step / len(radii) - math.pi / 2 for step in range(len(radii))]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in zip(radii, angles, strict=True)]


def _heart_point(t: float) -> Point:
    return (
        math.sin(t) ** 3,
        -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
    )


def _turned(point: Point, quarters: int) -> Point:
    for _ in range(quarters):
        point = (-point[1], point[0])
    return point


def _disc(canvas: Image.Image, centre: Point, radius: float, fill: int) -> None:
    half = canvas.width / 2
    x, y = ((coordinate + 1) * half for coordinate in centre)
    bounds = (x - radius * half, y - radius * half, x + radius * half, y + radius * half)
    ImageDraw.Draw(canvas).ellipse(bounds, fill=fill)
