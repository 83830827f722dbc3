"""What a prefill is given."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from paligemma_engine.answers.vocabulary import Task

LEVELS: Final = 256  # of an 8-bit channel


@dataclass(frozen=True, slots=True)
class TargetPrompt:
    """The prompt of one sequence.

    Attributes:
        task: decides the grammar of the answer.
        target: the prompt without its task word; the label of objects that the answer does not name.
        text: what the model receives, without the image, `<bos>` and the newline that the processor adds.
    """

    task: Task
    target: str
    text: str


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image in the model's input size.

    Attributes:
        input_image: uint8[R, R, 3], resized as the checkpoint's processor does.
        original_hw: height and width of the user's image, upright.
        digest: of the pixels; equal pictures have equal digests.
        normalized: float32[3, 256], the model's input for each 8-bit level of each channel. A picture then takes a
            quarter of the memory while it waits for its prefill. Or float32[3, R, R], the input itself, from a
            processor that does more than look up levels.
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
        asked: the prompt as text.
    """

    image: PreparedImage
    input_ids: list[int]
    asked: TargetPrompt
