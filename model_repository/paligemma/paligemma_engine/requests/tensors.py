"""An answer as the tensors of the `paligemma` model."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paligemma_engine.requests.request import Answer

TARGET_JOINER = " ; "


def to_tensors(answer: Answer) -> dict[str, NDArray[Any]]:
    """Output name to array: T tokens over all sequences, P targets, an image of R x R pixels.

    `tokens` object[T], `logprobs` float32[T], `sequence` int32[T] (index into `targets`), `targets` object[P],
    `finish_reason` object[P], `text` object[1], `input_image` uint8[R, R, 3], `image_size` int32[2] (height, width).
    """
    owned = [(index, token) for index, target in enumerate(answer.targets) for token in target.tokens]
    return {
        "tokens": _texts(token.text for _, token in owned),
        "logprobs": np.array([token.logprob for _, token in owned], np.float32),
        "sequence": np.array([index for index, _ in owned], np.int32),
        "targets": _texts(target.target for target in answer.targets),
        "finish_reason": _texts(target.finish_reason for target in answer.targets),
        "text": _texts([TARGET_JOINER.join(target.text for target in answer.targets)]),
        "input_image": answer.input_image,
        "image_size": np.array(answer.original_hw, np.int32),
    }


def _texts(texts: Iterable[str]) -> NDArray[np.object_]:
    # np.bytes_ would strip trailing NULs, so BYTES tensors are object arrays.
    return np.array([text.encode() for text in texts], np.object_)
