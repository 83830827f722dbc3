"""A mask in all formats and spaces: they must tell of the same pixels."""

import base64
import io
from typing import get_args

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image, ImageDraw

from gateway.answers.masks import encode_mask, paste_mask
from gateway.answers.outlines import outer_rings, signed_area
from gateway.answers.segmentation import Segmentation, SegmentedObject
from gateway.answers.spaces import Space
from gateway.dialects.sam3 import whole_pixels
from gateway.schemas import CoordinateSpace, MaskFormat, Ring, RunLengths

BOX = (0.25, 0.1, 0.75, 0.9)


def found(logits: np.ndarray | None, box: tuple[float, float, float, float] = BOX) -> SegmentedObject:
    return SegmentedObject(box, "cat", 0.9, None if logits is None else logits.astype(np.float32), 0.8)


def disc(*, hole: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    radius = np.hypot(x, y)
    return np.minimum(0.8 - radius, radius - hole if hole else 1.0)


def decode_png(encoded: object) -> Image.Image:
    assert isinstance(encoded, str)
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def fill(rings: list[Ring], width: int, height: int) -> np.ndarray:
    """Even-odd."""
    filled = np.zeros((height, width), bool)
    for ring in rings:
        canvas = Image.new("1", (width, height))
        ImageDraw.Draw(canvas).polygon([(x - 0.5, y - 0.5) for x, y in ring], fill=1)
        filled ^= np.asarray(canvas)
    return filled


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("hole", [0.0, 0.3])
@pytest.mark.parametrize(("width", "height"), [(224, 224), (640, 480), (37, 90), (8, 6)])
def test_all_formats_agree(width: int, height: int, hole: float) -> None:
    space, thing = Space(width, height), found(disc(hole=hole))
    full = np.asarray(decode_png(encode_mask(thing, "full", space)))
    assert (full.shape, full.dtype) == ((height, width), np.bool_)
    box = space.pixel_box(BOX)
    assert thing.mask_logits is not None
    np.testing.assert_array_equal(full, paste_mask(thing.mask_logits, box, width=width, height=height))
    run_lengths = encode_mask(thing, "rle", space)
    assert isinstance(run_lengths, RunLengths)
    decoded = pycocotools.mask.decode({"size": list(run_lengths.size), "counts": run_lengths.counts.encode()})
    np.testing.assert_array_equal(decoded.astype(bool), full)
    rings = encode_mask(thing, "polygon", space)
    assert isinstance(rings, list)
    assert len(rings) == (2 if hole else 1)
    if width > 100:
        assert overlap(fill(rings, width, height), full) > 0.97


def test_a_crop_is_the_soft_mask_of_the_box() -> None:
    crop = decode_png(encode_mask(found(np.zeros((64, 64))), "crop", Space(640, 480)))
    assert (crop.mode, crop.size, crop.getextrema()) == ("L", (64, 64), (128, 128))


def test_a_large_mask_is_resized_in_strips_as_in_one_piece() -> None:
    logits = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    width, height = 1500, 2100
    whole = Image.fromarray(logits).resize((width, height), Image.Resampling.BILINEAR)
    pasted = paste_mask(logits, [0, 0, width, height], width=width, height=height)
    assert (pasted != (np.asarray(whole) > 0)).mean() < 1e-5  # positions are rounded a little differently


def test_rings_are_closed_and_stay_in_the_box() -> None:
    """A mask that is foreground everywhere ends at its box's edge."""
    (ring,) = encode_mask(found(np.ones((64, 64))), "polygon", Space(1, 1, normalized=True))  # type: ignore[misc]
    assert ring[0] == ring[-1]
    corners = {(x, y) for x in (0.25, 0.75) for y in (0.1, 0.9)}
    assert corners <= set(ring)
    assert {x for x, _ in ring} | {y for _, y in ring} >= {0.25, 0.75, 0.1, 0.9}
    assert all(0.25 <= x <= 0.75 and 0.1 <= y <= 0.9 for x, y in ring)


@pytest.mark.parametrize(
    "box", [(0.5, 0.5, 0.5, 0.5), (0.2, 0.5, 0.9, 0.5), (0.0, 0.0, 1.0, 1.0), (0.9, 0.9, 0.1, 0.1)]
)
@pytest.mark.parametrize("mask_format", get_args(MaskFormat))
@pytest.mark.parametrize("coordinate_space", get_args(CoordinateSpace))
def test_odd_boxes_have_masks_too(
    box: tuple[float, float, float, float], mask_format: MaskFormat, coordinate_space: CoordinateSpace
) -> None:
    picture = np.zeros((224, 224, 3), np.uint8)
    space = Space.of(coordinate_space, Segmentation([], [], "", picture, original_hw=(1, 700)))
    for logits in (disc(), np.full((64, 64), -1.0), np.ones((64, 64))):
        assert encode_mask(found(logits, box), mask_format, space) is not None
    assert encode_mask(found(None, box), mask_format, space) is None


def test_spaces() -> None:
    segmentation = Segmentation([], [], "", np.zeros((224, 224, 3), np.uint8), original_hw=(480, 640))
    spaces = {name: Space.of(name, segmentation) for name in get_args(CoordinateSpace)}
    assert spaces["input"].coordinates(BOX) == [56, 22, 168, 202]
    assert spaces["original"].coordinates(BOX) == [160, 48, 480, 432]
    assert spaces["normalized"].coordinates(BOX) == [0.25, 0.1, 0.75, 0.9]
    assert (spaces["normalized"].width, spaces["normalized"].height) == (224, 224)


def test_holes_are_told_by_their_direction() -> None:
    outer = [(0.0, 0.0), (4.0, 0.0), (4.0, 3.0), (0.0, 0.0)]
    assert signed_area(outer) == 6.0
    assert outer_rings([outer, outer[::-1]]) == [outer]


def test_whole_pixels_stay_in_the_image() -> None:
    ring = [(0.0, 0.0), (0.2, 0.1), (10.0, 0.0), (10.0, 5.0), (0.0, 5.0), (0.0, 0.0)]
    assert whole_pixels(ring, Space(10, 5)) == [(0, 0), (9, 0), (9, 4), (0, 4)]
