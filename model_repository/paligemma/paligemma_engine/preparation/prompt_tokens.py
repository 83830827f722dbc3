"""From a prompt's words to the ids that the model is given."""

from typing import Final

from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.errors import InvalidPrompt
from paligemma_engine.requests.prepared import TargetPrompt

MAX_PROMPT_TOKENS: Final = 128  # of the user's words; the image's tokens come on top


def slot_length(checkpoint: Checkpoint, max_new_tokens: int) -> int:
    """How many positions a sequence may take: the image, the longest prompt, the answer."""
    return checkpoint.image_token_count + MAX_PROMPT_TOKENS + max_new_tokens


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
