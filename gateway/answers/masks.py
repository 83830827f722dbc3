"""Encodes a mask in the format that the client asks for.

A pixel is foreground where the raw mask, resized bilinearly to its box, is above 0. This is the protocol of the
published mean IoU (google-research/big_vision, PaliGemma's segmentation evaluator).
"""

import base64
import io
from collections.abc import Iterator
from typing import Final, cast

import contourpy
import numpy as np
import pycocotools.mask
from numpy.typing import NDArray
from PIL import Image

from gateway.answers.encoding import png_base64, soft_mask
from gateway.answers.segmentation import SegmentedObject
from gateway.answers.spaces import Space
from gateway.schemas import MaskFormat, Ring, RunLengths

STRIP_PIXELS: Final = 1 << 20  # masks are resized in strips of about this size, to bound memory
BACKGROUND: Final = -1.0  # value of raw masks where there is no object
MIN_RING_POINTS: Final = 4  # a triangle, closed by its first point


def encode_mask(found: SegmentedObject, mask_format: MaskFormat, space: Space) -> str | RunLengths | list[Ring] | None:
    """Returns an object's mask in one format; None if the object has no mask."""
    if found.mask_logits is None:
        return None
    match mask_format:
        case "crop":
            return png_base64(soft_mask(found.mask_logits))
        case "full":
            return _binary_png(found.mask_logits, space.pixel_box(found.box_xyxy), space)
        case "rle":
            return _run_lengths(found.mask_logits, space.pixel_box(found.box_xyxy), space)
        case "polygon":
            return _rings(found, space)


def paste_mask(mask_logits: NDArray[np.float32], pixel_box: list[int], *, width: int, height: int) -> NDArray[np.bool_]:
    """Returns bool[height, width]: float32[64, 64] logits resized to the box, thresholded, False outside the box."""
    pasted = np.zeros((height, width), np.bool_)
    x_min, _, x_max, _ = pixel_box
    for top, strip in _strips(mask_logits, pixel_box):
        pasted[top : top + len(strip), x_min:x_max] = strip
    return pasted


def _strips(mask_logits: NDArray[np.float32], pixel_box: list[int]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yields strips of the box from top to bottom: the strip's first row in the image, and bool[rows, box width]."""
    x_min, y_min, x_max, y_max = pixel_box
    if x_max <= x_min or y_max <= y_min:
        return
    raw = Image.fromarray(mask_logits)
    rows_per_strip = max(1, STRIP_PIXELS // (x_max - x_min))
    scale = raw.height / (y_max - y_min)
    for top in range(y_min, y_max, rows_per_strip):
        bottom = min(top + rows_per_strip, y_max)
        source = (0.0, (top - y_min) * scale, float(raw.width), (bottom - y_min) * scale)
        resized = raw.resize((x_max - x_min, bottom - top), Image.Resampling.BILINEAR, box=source)
        yield top, np.asarray(resized) > 0


def _binary_png(mask_logits: NDArray[np.float32], pixel_box: list[int], space: Space) -> str:
    """Base64 PNG with one bit per pixel; foreground is white."""
    x_min, _, x_max, _ = pixel_box
    packed = np.zeros((space.height, (space.width + 7) // 8), np.uint8)
    for top, strip in _strips(mask_logits, pixel_box):
        rows = np.pad(strip, ((0, 0), (x_min, space.width - x_max)))
        packed[top : top + len(strip)] = np.packbits(rows, axis=1)
    buffer = io.BytesIO()
    Image.frombytes("1", (space.width, space.height), packed.tobytes()).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _run_lengths(mask_logits: NDArray[np.float32], pixel_box: list[int], space: Space) -> RunLengths:
    """Compressed run lengths in COCO's format, column by column."""
    pasted = np.zeros((space.height, space.width), np.uint8, order="F")
    x_min, _, x_max, _ = pixel_box
    for top, strip in _strips(mask_logits, pixel_box):
        pasted[top : top + len(strip), x_min:x_max] = strip
    encoded = pycocotools.mask.encode(pasted)
    return RunLengths(size=(space.height, space.width), counts=encoded["counts"].decode("ascii"))


def mask_parts(found: SegmentedObject, space: Space) -> list[list[Ring]]:
    """The connected parts of an object's foreground: the outline of each, then those of its holes.

    The rings are those of the format `polygon`, grouped; none if the object has no mask.
    """
    if found.mask_logits is None:
        return []
    filled = _contours(found.mask_logits).filled(0.0, np.inf)
    points, offsets = cast("tuple[list[NDArray[np.float64]], list[NDArray[np.uint32]]]", filled)
    parts = []
    for part, ends in zip(points, offsets, strict=True):
        outlines = np.split(part, ends[1:-1].astype(np.int64))
        rings = [space.ring(found.box_xyxy, outline) for outline in outlines]
        if len(rings[0]) >= MIN_RING_POINTS:
            parts.append([ring for ring in rings if len(ring) >= MIN_RING_POINTS])
    return parts


def _rings(found: SegmentedObject, space: Space) -> list[Ring]:
    """The outlines of the foreground and of its holes, as closed lines in the space's coordinates.

    They are interpolated between the 64x64 samples of the raw mask, so they do not depend on the image's size.
    """
    assert found.mask_logits is not None
    outlines = _contours(found.mask_logits).lines(0.0)
    rings = (space.ring(found.box_xyxy, np.asarray(outline)) for outline in outlines)
    return [ring for ring in rings if len(ring) >= MIN_RING_POINTS]


def _contours(mask_logits: NDArray[np.float32]) -> contourpy.ContourGenerator:
    """Makes outlines of float32[64, 64] logits, in [0, 1] of the box."""
    samples = len(mask_logits)
    centres = (np.arange(samples) + 0.5) / samples
    # The outermost samples are repeated up to the box's edge, as in the resized mask; beyond the edge is background.
    positions = np.concatenate([[0.0, 0.0], centres, [1.0, 1.0]])
    levels = np.pad(np.pad(mask_logits, 1, mode="edge"), 1, constant_values=BACKGROUND)
    return contourpy.contour_generator(positions, positions, levels, fill_type=contourpy.FillType.OuterOffset)
