"""Draws a sheet of cases side by side: prompts, true objects and answers."""

from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from parts.evaluate.protocol import Mask
from parts.evaluate.summary import Judged

_COLUMNS: Final = 6
_TILE: Final = (240, 180)
_CAPTION: Final = 30
_MARGIN: Final = 6
_TRUE_COLOUR, _ANSWERED_COLOUR = (0, 220, 60), (255, 0, 200)


def draw_sheet(judged: list[Judged]) -> Image.Image:
    """Draws the cases in order, six in a row: true outlines in green, answered masks and boxes in magenta."""
    rows = -(-len(judged) // _COLUMNS)
    step = (_TILE[0] + _MARGIN, _TILE[1] + _CAPTION + _MARGIN)
    sheet = Image.new("RGB", (_COLUMNS * step[0], rows * step[1]), "white")
    for index, one in enumerate(judged):
        sheet.paste(_tile(one), (index % _COLUMNS * step[0], index // _COLUMNS * step[1]))
    return sheet


def _tile(judged: Judged) -> Image.Image:
    picture = judged.case.image.convert("RGB")
    pixels = np.asarray(picture).copy()
    for found in judged.answer.objects:
        if found.mask is not None:
            pixels[found.mask] = (pixels[found.mask] * 0.5 + np.array(_ANSWERED_COLOUR) * 0.5).astype(np.uint8)
    for truth in judged.case.truths:
        pixels[_outline(truth.mask)] = _TRUE_COLOUR
    drawn = Image.fromarray(pixels)
    for found in judged.answer.objects:
        x_min, y_min, x_max, y_max = (edge * length for edge, length in zip(found.box, drawn.size * 2, strict=True))
        if x_max > x_min and y_max > y_min:
            ImageDraw.Draw(drawn).rectangle((x_min, y_min, x_max, y_max), outline=_ANSWERED_COLOUR, width=2)
    drawn.thumbnail(_TILE)
    tile = Image.new("RGB", (_TILE[0], _TILE[1] + _CAPTION), "white")
    tile.paste(drawn, (0, 0))
    caption = f"{judged.case.prompt}\n{'absent' if not judged.case.truths else judged.case.form} {judged.worth:.2f}"
    ImageDraw.Draw(tile).text((2, _TILE[1] + 2), caption, fill="black", font=ImageFont.load_default(11))
    return tile


def _outline(mask: Mask, width: int = 2) -> Mask:
    """The mask's pixels within `width` pixels of its edge."""
    inner = mask.copy()
    for axis in (0, 1):
        for step in (width, -width):
            inner &= np.roll(mask, step, axis)
    return mask & ~inner
