"""Requests to the engine, and its answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One image and one prompt.

    Attributes:
        image: an encoded image file.
        prompt: the user's words, such as `segment left wheel`.
        model_id: the model that answers; None for the default one.
        max_new_tokens: for each target; None for the configured limit.
        timeout_s: time limit for the answer; None for no limit.
    """

    image: bytes
    prompt: str
    model_id: str | None = None
    max_new_tokens: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token: its text in the answer, and its log-probability under the full distribution."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TargetAnswer:
    """The answer to one target.

    Attributes:
        target: its words in the prompt.
        tokens: the generated tokens, the end token left out.
        finish_reason: eos, length, deadline, cancelled, repeat or error.
    """

    target: str
    tokens: tuple[Token, ...]
    finish_reason: str

    @property
    def text(self) -> str:
        """Returns the answer's text as the model wrote it."""
        return "".join(token.text for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request.

    Attributes:
        targets: in the order of the prompt.
        input_image: uint8[R, R, 3], RGB: the image as the model saw it.
        original_hw: height and width of the user's image, upright.
    """

    targets: tuple[TargetAnswer, ...]
    input_image: NDArray[np.uint8]
    original_hw: tuple[int, int]
