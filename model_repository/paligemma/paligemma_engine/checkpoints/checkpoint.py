"""A loaded checkpoint."""

from dataclasses import dataclass
from typing import Any

from paligemma_engine.answers.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        model_id: the id that requests name.
        model: PaliGemmaForConditionalGeneration in eval mode, on its device.
        processor: PaliGemmaProcessor.
        vocabulary: the classes of its tokens.
        steering_ids: special tokens that a prompt must not contain.
        image_token_count: tokens that an image takes in the prompt.
    """

    model_id: str
    model: Any
    processor: Any
    vocabulary: Vocabulary
    steering_ids: frozenset[int]

    @property
    def image_token_count(self) -> int:
        """Tokens that an image takes in the prompt."""
        count: int = self.processor.image_seq_length
        return count

    @property
    def dtype(self) -> str:
        """Name of the dtype that is computed in."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def is_quantized(self) -> bool:
        """Whether weights are stored in fewer bits than the computation's dtype."""
        return bool(getattr(self.model, "is_quantized", False))
