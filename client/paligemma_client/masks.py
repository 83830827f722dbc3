"""Masks as COCO's run lengths, and operations on them."""

from typing import Any, TypedDict

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max in pixels; the maxima are exclusive


class RunLengths(TypedDict):
    """COCO's compressed form: `size` is height and width, `counts` the runs column by column."""

    size: list[int]
    counts: str


def encode(mask: NDArray[np.bool_]) -> RunLengths:
    """The run lengths of bool[H, W]."""
    return _with_text(pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode(run_lengths: RunLengths) -> NDArray[np.bool_]:
    """bool[H, W]."""
    decoded: NDArray[np.uint8] = pycocotools.mask.decode(run_lengths)
    return decoded.astype(np.bool_)


def area(run_lengths: RunLengths) -> int:
    """How many pixels are in the foreground."""
    return int(pycocotools.mask.area(run_lengths))


def rectangle(box: Box, *, width: int, height: int) -> RunLengths:
    """The run lengths of a box in a picture of that size."""
    x_min, y_min, x_max, y_max = box
    boxes = np.array([[x_min, y_min, x_max - x_min, y_max - y_min]], np.float64)
    return _with_text(pycocotools.mask.frPyObjects(boxes, height, width)[0])


def union(run_lengths: list[RunLengths]) -> RunLengths:
    """The union of masks of one size."""
    return _with_text(pycocotools.mask.merge(run_lengths))


def intersection(run_lengths: list[RunLengths]) -> RunLengths:
    """The intersection of masks of one size."""
    return _with_text(pycocotools.mask.merge(run_lengths, intersect=True))


def paste_logits(mask_logits: NDArray[np.float32], box: Box, *, width: int, height: int) -> NDArray[np.bool_]:
    """bool[height, width]: a raw mask float32[64, 64] over a box, resized bilinearly, foreground where it is above 0.

    The protocol of the published mean IoU (google-research/big_vision, PaliGemma's segmentation evaluator), which the
    gateway follows, too.
    """
    pasted = np.zeros((height, width), np.bool_)
    x_min, y_min, x_max, y_max = box
    if x_max > x_min and y_max > y_min:
        raw = Image.fromarray(mask_logits)
        resized = raw.resize((x_max - x_min, y_max - y_min), Image.Resampling.BILINEAR)
        pasted[y_min:y_max, x_min:x_max] = np.asarray(resized) > 0
    return pasted


def iou(first: RunLengths, second: RunLengths) -> float:
    """Intersection over union of two masks of one size, in [0, 1]."""
    common = area(intersection([first, second]))
    covered = area(first) + area(second) - common
    return common / covered if covered else 0.0


def _with_text(encoded: Any) -> RunLengths:
    """pycocotools gives bytes, which JSON cannot carry."""
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
