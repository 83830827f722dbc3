"""From a request's bytes and words to what the model is given."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma_engine.checkpoint import Checkpoint
from paligemma_engine.errors import InvalidPrompt
from paligemma_engine.prepared import PreparedImage
from paligemma_engine.prompts import TargetPrompt

MAX_PROMPT_TOKENS: Final = 128  # of the user's words; the image's tokens come on top

_LEVELS: Final = 255


def prepare_image(checkpoint: Checkpoint, image: Image.Image) -> PreparedImage:
    """Runs the checkpoint's own image processor over an RGB image."""
    processor = checkpoint.processor.image_processor
    pixel_values: NDArray[np.float32] = processor(images=image, return_tensors="np")["pixel_values"][0]
    return PreparedImage(
        pixel_values=pixel_values,
        input_image=_before_normalisation(processor, pixel_values),
        original_hw=(image.height, image.width),
    )


def tokenize_prompt(checkpoint: Checkpoint, asked: TargetPrompt) -> list[int]:
    """The ids that PaliGemmaProcessor makes of `<image>` and a prompt.

    Raises:
        InvalidPrompt: the prompt is too long, or spells out a token that steers the model.
    """
    tokenizer, processor = checkpoint.processor.tokenizer, checkpoint.processor
    words: list[int] = tokenizer(asked.text, add_special_tokens=False)["input_ids"]
    if steering := sorted(set(words) & checkpoint.steering_ids):
        raise InvalidPrompt(f"the prompt holds the special token {tokenizer.convert_ids_to_tokens(steering[0])}")
    placeholders = processor.image_token * processor.image_seq_length
    input_ids: list[int] = tokenizer(f"{placeholders}{tokenizer.bos_token}{asked.text}\n")["input_ids"]
    if len(input_ids) - processor.image_seq_length > MAX_PROMPT_TOKENS:
        raise InvalidPrompt(f"the prompt has {len(words)} tokens; at most {MAX_PROMPT_TOKENS - 2} fit")
    return input_ids


def _before_normalisation(processor: Any, pixel_values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8[R, R, 3] of float32[3, R, R]: the processor rounds to bytes before it normalises, so this is exact."""
    mean = np.array(processor.image_mean, np.float32)
    std = np.array(processor.image_std, np.float32)
    fractions: NDArray[np.float32] = pixel_values.transpose(1, 2, 0) * std + mean
    levels: NDArray[np.float32] = np.clip(np.rint(fractions * _LEVELS), 0, _LEVELS)
    return levels.astype(np.uint8)
