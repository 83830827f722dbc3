"""What Triton's `segment` answers, one record for each object."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SegmentedObject:
    """One object.

    Attributes:
        box_xyxy: x_min, y_min, x_max, y_max, each in [0, 1].
        label: the name in the answer, else the prompt's target.
        score: of the box, in [0, 1]; not calibrated.
        mask_logits: float32[64, 64] over the box's area, about [-1, 1], foreground > 0; None for a `detect` answer.
        mask_score: in [0, 1]; None where there is no mask.
        target: index of the target that it answers.
    """

    box_xyxy: tuple[float, float, float, float]
    label: str
    score: float
    mask_logits: NDArray[np.float32] | None
    mask_score: float | None
    target: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that the prompt asks for.

    Attributes:
        text: as the prompt names it; the whole prompt where it is not `segment`.
        finish_reason: eos where its answer is whole; length, deadline, repeat or error where there may be more.
    """

    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A whole answer.

    Attributes:
        objects: in the order of the answer; may be empty.
        targets: in the order of the prompt.
        text: what the model wrote.
        input_image: uint8[R, R, 3], RGB: what the model saw.
        original_hw: height and width of the user's image, upright.
    """

    objects: list[SegmentedObject]
    targets: list[Target]
    text: str
    input_image: NDArray[np.uint8]
    original_hw: tuple[int, int]
