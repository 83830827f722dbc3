"""What a prefill is given."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from paligemma_engine.answers.vocabulary import Task

LEVELS: Final = 256  # of an 8-bit channel


@dataclass(frozen=True, slots=True)
class TargetPrompt:
    """What one sequence is asked.

    Attributes:
        task: decides the grammar of the answer.
        target: what was asked for, without the task word; names objects that the answer leaves unnamed.
        text: what the model receives, without the image, `<bos>` and the newline that the processor adds.
    """

    task: Task
    target: str
    text: str


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as the model takes it.

    Attributes:
        input_image: uint8[R, R, 3], resized as the checkpoint's processor does.
        original_hw: height and width of the user's image, upright.
        digest: of the picture; equal pictures have equal ones.
        normalized: how its pixels become the model's numbers. As a float32[3, 256] the number that each 8-bit level of
            each channel becomes, so that a picture waits for its prefill in a quarter of the size; as a
            float32[3, R, R] the numbers themselves, from a processor that does more than that.
    """

    input_image: NDArray[np.uint8]
    original_hw: tuple[int, int]
    digest: bytes
    normalized: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.input_image.nbytes + self.normalized.nbytes


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """What a prefill is given.

    Attributes:
        image: the picture.
        input_ids: image placeholders, `<bos>`, the prompt, a newline.
        asked: the words behind it.
    """

    image: PreparedImage
    input_ids: list[int]
    asked: TargetPrompt
