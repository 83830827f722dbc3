"""Tokenizes prompts."""

from typing import Final

from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.errors import InvalidPrompt
from paligemma_engine.requests.prepared import TargetPrompt

MAX_PROMPT_TOKENS: Final = 128  # tokens of the user's prompt; the image's tokens are extra


def slot_length(checkpoint: Checkpoint, max_new_tokens: int) -> int:
    """Returns the most positions of a sequence: the image, the longest prompt, the answer."""
    return checkpoint.image_token_count + MAX_PROMPT_TOKENS + max_new_tokens


def tokenize_prompt(checkpoint: Checkpoint, asked: TargetPrompt) -> list[int]:
    """Returns the same ids as PaliGemmaProcessor for `<image>` and a prompt.

    Raises:
        InvalidPrompt: the prompt is too long, or contains a special token.
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
