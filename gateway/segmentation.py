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
    """

    box_xyxy: tuple[float, float, float, float]
    label: str
    score: float
    mask_logits: NDArray[np.float32] | None
    mask_score: float | None


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A whole answer.

    Attributes:
        objects: in the order of the answer; may be empty.
        text: what the model wrote.
        input_image: uint8[R, R, 3], RGB: what the model saw.
        original_hw: height and width of the user's image, upright.
    """

    objects: list[SegmentedObject]
    text: str
    input_image: NDArray[np.uint8]
    original_hw: tuple[int, int]
