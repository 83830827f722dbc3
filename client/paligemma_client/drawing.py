"""Pictures of answers: overlays and cut-outs."""

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from paligemma_client.masks import Box
    from paligemma_client.objects import FoundObject

MASK_OPACITY: Final = 0.5
MIN_FONT_PX: Final = 10
FONT_SHARE: Final = 1 / 32  # of the picture's height
LINE_SHARE: Final = 1 / 300
FIRST_HUE: Final = 0.58
HUE_STEP: Final = 0.381966  # the golden angle, of a turn: neighbours in the list get hues that lie far apart

Colour = tuple[int, int, int]


def draw_objects(image: Image.Image, objects: Sequence["FoundObject"]) -> Image.Image:
    """A copy of an RGB image with masks, boxes, labels and box scores."""
    pixels = np.array(image)
    for index, found in enumerate(objects):
        mask = found.mask
        if mask is not None:
            blended = (1 - MASK_OPACITY) * pixels[mask] + MASK_OPACITY * np.array(_colour(index))
            pixels[mask] = np.rint(blended).astype(np.uint8)
    drawn = Image.fromarray(pixels)
    draw = ImageDraw.Draw(drawn)
    for index, found in enumerate(objects):
        x_min, y_min, x_max, y_max = found.box_xyxy
        outline = (x_min, y_min, max(x_min, x_max - 1), max(y_min, y_max - 1))
        draw.rectangle(outline, outline=_colour(index), width=max(1, round(image.height * LINE_SHARE)))
        _draw_caption(draw, f"{found.label} {found.score:.2f}", found.box_xyxy, _colour(index), image.size)
    return drawn


def cut_out(image: Image.Image, found: "FoundObject") -> Image.Image:
    """RGBA of the object's box, transparent where the mask is not; all of the box where there is no mask."""
    x_min, y_min, x_max, y_max = found.box_xyxy
    cut = image.crop((x_min, y_min, max(x_max, x_min + 1), max(y_max, y_min + 1))).convert("RGBA")
    mask = found.mask
    if mask is not None:
        cut.putalpha(Image.fromarray(mask).crop((x_min, y_min, x_min + cut.width, y_min + cut.height)).convert("L"))
    return cut


def _draw_caption(draw: ImageDraw.ImageDraw, caption: str, box: "Box", colour: Colour, size: tuple[int, int]) -> None:
    """Above the box where there is room, else inside it; never cut off at the right where it fits the picture."""
    width, height = size
    font = ImageFont.load_default(size=max(MIN_FONT_PX, round(height * FONT_SHARE)))
    _, _, text_width, text_height = draw.textbbox((0, 0), caption, font=font)
    margin = 2
    left = max(0, min(box[0], width - int(text_width) - 2 * margin))
    above = box[1] - int(text_height) - 2 * margin
    top = above if above >= 0 else box[1]
    draw.rectangle((left, top, left + text_width + 2 * margin, top + text_height + 2 * margin), fill=colour)
    draw.text((left + margin, top + margin), caption, font=font, fill=(255, 255, 255))


def _colour(index: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb((FIRST_HUE + index * HUE_STEP) % 1.0, 0.85, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)
