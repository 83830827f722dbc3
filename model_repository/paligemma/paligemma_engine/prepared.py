"""What a prefill is given."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paligemma_engine.prompts import TargetPrompt


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as the model takes it.

    Attributes:
        input_image: uint8[R, R, 3], resized as the checkpoint's processor does.
        original_hw: height and width of the user's image, upright.
        digest: of what pixel_values are made from; equal pictures have equal ones.
        make_pixel_values: computes them. A picture waits for its prefill as 8-bit pixels, a quarter of the size.
    """

    input_image: NDArray[np.uint8]
    original_hw: tuple[int, int]
    digest: bytes
    make_pixel_values: Callable[[], NDArray[np.float32]]

    @property
    def pixel_values(self) -> NDArray[np.float32]:
        """float32[3, R, R], normalised as the checkpoint's processor does; computed anew each time."""
        return self.make_pixel_values()


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
