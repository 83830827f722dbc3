"""Turns a user's prompt into the form that PaliGemma expects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.schemas import MAX_PROMPT_CHARACTERS

# The task words that PaliGemma mix checkpoints were trained on.
TASK_WORDS: Final = frozenset({"segment", "detect", "caption", "cap", "describe", "ocr", "answer", "question"})
DEFAULT_TASK: Final = "segment"
DETECT_TASK: Final = "detect"
MAX_TARGETS: Final = 8  # of one prompt; the engine's own limit
TARGET_SEPARATOR: Final = ";"


@dataclass(frozen=True, slots=True)
class TargetPrompt:
    """One target of a prompt.

    Attributes:
        target: its name, as answers have it.
        prompt: asks for this target alone.
    """

    target: str
    prompt: str


def with_task(prompt: str) -> str:
    """Puts `segment ` before a prompt that starts with no task word: `left wheel` -> `segment left wheel`."""
    words = prompt.split(maxsplit=1)
    if not words or words[0].lower() in TASK_WORDS:
        return prompt
    return f"{DEFAULT_TASK} {prompt}"


def segment_prompt(targets: Sequence[str]) -> str:
    """Returns the prompt for these targets, the inverse of `split_prompt`; at most MAX_TARGETS."""
    return f"{DEFAULT_TASK} {f' {TARGET_SEPARATOR} '.join(targets)}"


def split_prompt(prompt: str) -> list[TargetPrompt]:
    """The targets of a prompt that has its task word, in their order; at least one.

    `segment a ; b` has a target for each name, repeated names included; any other prompt is one target. This is the
    engine's rule, from paligemma_engine/preparation/prompts.py; a test compares the two. A prompt that the engine
    refuses stays whole, so that the engine says why.
    """
    word, *following = prompt.split() or [""]
    rest = " ".join(following)
    if word.lower() == DEFAULT_TASK and len(prompt) <= MAX_PROMPT_CHARACTERS:
        targets = [target for part in rest.split(TARGET_SEPARATOR) if (target := part.strip())]
        if 1 <= len(targets) <= MAX_TARGETS:
            return [TargetPrompt(target, f"{DEFAULT_TASK} {target}") for target in targets]
    return [TargetPrompt(rest if word.lower() == DETECT_TASK else prompt.strip(), prompt)]
