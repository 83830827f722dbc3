"""Draws masks, boxes and labels over the image."""

import colorsys
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gateway.answers.encoding import pixel_coordinates
from gateway.answers.masks import paste_mask
from gateway.answers.segmentation import SegmentedObject

MASK_OPACITY: Final = 0.5
GOLDEN_ANGLE: Final = 0.381966  # of a turn: keeps consecutive hues far apart for any number of objects
FIRST_HUE: Final = 0.58


def draw_overlay(input_image: NDArray[np.uint8], objects: list[SegmentedObject]) -> NDArray[np.uint8]:
    """Returns uint8[R, R, 3]: the input image with masks, boxes, labels and box scores."""
    pixels = input_image.astype(np.float32)
    height, width = pixels.shape[:2]
    boxes = [pixel_coordinates(found.box_xyxy, width=width, height=height) for found in objects]
    for index, (found, box) in enumerate(zip(objects, boxes, strict=True)):
        if found.mask_logits is not None:
            mask = paste_mask(found.mask_logits, box, width=width, height=height)
            pixels[mask] = (1 - MASK_OPACITY) * pixels[mask] + MASK_OPACITY * np.array(_colour(index))
    image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, height // 24))
    for index, (found, box) in enumerate(zip(objects, boxes, strict=True)):
        draw.rectangle(box, outline=_colour(index), width=max(1, height // 200))
        _draw_caption(draw, f"{found.label} {found.score:.2f}", box, font, _colour(index), width)
    return np.asarray(image)


def _draw_caption(
    draw: ImageDraw.ImageDraw,
    caption: str,
    box: list[int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """Draws the caption above the box if there is room, else inside it; moves it left if it would be cut off."""
    _, _, text_width, text_height = draw.textbbox((0, 0), caption, font=font)
    left = max(0, min(box[0], width - int(text_width) - 4))
    top = box[1] - int(text_height) - 4 if box[1] >= text_height + 4 else box[1]
    draw.rectangle((left, top, left + text_width + 4, top + text_height + 4), fill=colour)
    draw.text((left + 2, top + 2), caption, font=font, fill=(255, 255, 255))


def _colour(index: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((FIRST_HUE + index * GOLDEN_ANGLE) % 1.0, 0.85, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)
