"""What goes into the engine and what comes out of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One image and one prompt.

    Attributes:
        image: an encoded image file.
        prompt: the user's words, such as `segment left wheel`.
        model_id: which model shall answer; None for the default one.
        max_new_tokens: for each target; None for the configured limit.
        timeout_s: how long the answer may take; None for as long as it takes.
    """

    image: bytes
    prompt: str
    model_id: str | None = None
    max_new_tokens: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token: its text as it stands in the answer, and its log-probability under the full distribution."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TargetAnswer:
    """What one target was answered with.

    Attributes:
        target: what was asked for.
        tokens: the generated tokens, the end token left out.
        finish_reason: eos, length, deadline, cancelled, repeat or error.
    """

    target: str
    tokens: tuple[Token, ...]
    finish_reason: str

    @property
    def text(self) -> str:
        """The answer as the model wrote it."""
        return "".join(token.text for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with.

    Attributes:
        targets: in the order of the prompt.
        input_image: uint8[R, R, 3], RGB: what the model saw.
        original_hw: height and width of the user's image, upright.
    """

    targets: tuple[TargetAnswer, ...]
    input_image: NDArray[np.uint8]
    original_hw: tuple[int, int]
