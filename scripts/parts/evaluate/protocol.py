"""The arithmetic of the published protocol (google-research/big_vision, PaliGemma's segmentation evaluator).

Mean IoU per object at the picture's full size: the raw mask is resized to its box and is foreground where it is above
0. An empty or malformed answer scores 0. Absent targets are counted separately.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma_tokens.vocabulary import SEPARATOR

Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]

_BOX_PATTERN: Final = r"(<loc\d{4}>){4}"
_ONE_OBJECT: Final = {
    "segment": re.compile(_BOX_PATTERN + r" ?(<seg\d{3}>){16}( [^<>;]+)?"),
    "detect": re.compile(_BOX_PATTERN + r" [^<>;]+"),
}


@dataclass(frozen=True, slots=True)
class Predicted:
    """An object of an answer: box x_min, y_min, x_max, y_max in [0, 1]; mask bool[H, W], None if it has none."""

    box: Box
    mask: Mask | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one prompt: its text and objects."""

    text: str
    objects: list[Predicted]


@dataclass(frozen=True, slots=True)
class Truth:
    """A true object: mask bool[H, W], box in [0, 1], and the family that it is counted in."""

    mask: Mask
    box: Box
    family: str


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """IoU of one object's box and mask, in [0, 1]; 0 if it was not found. `detect` has no mask score."""

    mask_iou: float | None
    box_iou: float

    @property
    def worth(self) -> float:
        """The mask's IoU; the box's IoU for `detect`."""
        return self.box_iou if self.mask_iou is None else self.mask_iou


def is_well_formed(text: str, task: str) -> bool:
    """Whether an answer is empty, or consists only of complete objects of the task."""
    pattern = _ONE_OBJECT[task]
    return not text or all(pattern.fullmatch(part) for part in text.split(SEPARATOR))


def score(answer: Answer, truths: list[Truth], task: str) -> list[ObjectScore]:
    """Returns one score for each true object.

    If there is one true object, the answer's first object is scored, as in the protocol. If there are several, objects
    are paired so that the scores are highest.
    """
    if len(truths) == 1:
        return [_pair(answer.objects[0] if answer.objects else None, truths[0], task)]
    predicted: list[Predicted | None] = [*answer.objects[: len(truths) + 1], *([None] * len(truths))]
    pairings = itertools.permutations(range(len(predicted)), len(truths))
    scored = (
        [_pair(predicted[index], truth, task) for index, truth in zip(pairing, truths, strict=True)]
        for pairing in pairings
    )
    return max(scored, key=lambda scores: sum(each.worth for each in scores))


def paste(raw: NDArray[np.float32], box: Box, size: tuple[int, int]) -> Mask | None:
    """Resizes a raw mask float[64, 64] to its box: bool[H, W] for a size (width, height); None if the box is empty."""
    x_min, y_min, x_max, y_max = (int(edge * length) for edge, length in zip(box, (*size, *size), strict=True))
    if x_max <= x_min or y_max <= y_min:
        return None
    mask = np.zeros((size[1], size[0]), np.bool_)
    resized = Image.fromarray(raw).resize((x_max - x_min, y_max - y_min), Image.Resampling.BILINEAR)
    mask[y_min:y_max, x_min:x_max] = np.asarray(resized) > 0
    return mask


def mask_iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two masks; 0 if both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes x_min, y_min, x_max, y_max; 0 if both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    union = _area(first) + _area(second) - overlap
    return overlap / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _pair(predicted: Predicted | None, truth: Truth, task: str) -> ObjectScore:
    boxes = box_iou(predicted.box, truth.box) if predicted else 0.0
    if task == "detect":
        return ObjectScore(None, boxes)
    if predicted is None or predicted.mask is None:
        return ObjectScore(0.0, boxes)
    return ObjectScore(mask_iou(predicted.mask, truth.mask), boxes)
