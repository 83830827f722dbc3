"""What a prefill is given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paligemma_engine.prompts import TargetPrompt


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as the model takes it.

    Attributes:
        pixel_values: float32[3, R, R], normalised as the checkpoint's processor does.
        input_image: uint8[R, R, 3], the same picture before normalisation.
        original_hw: height and width of the user's image, upright.
        digest: of the pixel values; equal pictures have equal ones.
    """

    pixel_values: NDArray[np.float32]
    input_image: NDArray[np.uint8]
    original_hw: tuple[int, int]
    digest: bytes


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
