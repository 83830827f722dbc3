"""The answer of Triton's `segment`, one record per object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.errors import ApiError

TARGET_JOINER: Final = " ; "  # as the engine joins the texts of targets

# Ends of targets that were broken off, and the error that they stand for where an answer must be whole.
CODE_OF_INCOMPLETE: Final[Mapping[str, str]] = {"deadline": "deadline", "cancelled": "deadline", "error": "internal"}


@dataclass(frozen=True, slots=True)
class SegmentedObject:
    """One object.

    Attributes:
        box_xyxy: x_min, y_min, x_max, y_max, each in [0, 1].
        label: the name in the model's text; the prompt's target if the text has none.
        score: box score in [0, 1]; not calibrated.
        mask_logits: float32[64, 64] over the box's area, about [-1, 1], foreground > 0; None for a `detect` answer.
        mask_score: in [0, 1]; None if there is no mask.
        target: index of the target that this object answers.
    """

    box_xyxy: tuple[float, float, float, float]
    label: str
    score: float
    mask_logits: NDArray[np.float32] | None
    mask_score: float | None
    target: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """One target of the prompt.

    Attributes:
        text: the target's words in the prompt; the whole prompt if its task is not `segment`.
        finish_reason: eos if the answer is complete; length, deadline, repeat or error if objects may be missing.
    """

    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The answer to one request.

    Attributes:
        objects: in the order of the answer; may be empty.
        targets: in the order of the prompt.
        text: the model's output.
        input_image: uint8[R, R, 3], RGB: the image as the model saw it.
        original_hw: height and width of the user's image in pixels, upright.
    """

    objects: list[SegmentedObject]
    targets: list[Target]
    text: str
    input_image: NDArray[np.uint8]
    original_hw: tuple[int, int]


def joined(parts: Sequence[Segmentation]) -> Segmentation:
    """Joins the answers to parts of a prompt, at least one; each part has one target or several."""
    starts = accumulate((len(part.targets) for part in parts), initial=0)
    return Segmentation(
        objects=[
            replace(found, target=start + found.target)
            for start, part in zip(starts, parts, strict=False)
            for found in part.objects
        ],
        targets=[target for part in parts for target in part.targets],
        text=TARGET_JOINER.join(part.text for part in parts),
        input_image=parts[0].input_image,
        original_hw=parts[0].original_hw,
    )


def check_complete(segmentation: Segmentation) -> None:
    """Raises ApiError if a target was broken off, for protocols that cannot say so of a target."""
    for target in segmentation.targets:
        code = CODE_OF_INCOMPLETE.get(target.finish_reason)
        if code is not None:
            raise ApiError(code, f"the answer is not complete ({target.finish_reason}); try again")
