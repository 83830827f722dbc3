"""Turns a user's prompt into the form that PaliGemma expects."""

from typing import Final

# The task words that PaliGemma mix checkpoints were trained on.
TASK_WORDS: Final = frozenset({"segment", "detect", "caption", "cap", "describe", "ocr", "answer", "question"})
DEFAULT_TASK: Final = "segment"


def with_task(prompt: str) -> str:
    """Puts `segment ` before a prompt that starts with no task word: `left wheel` -> `segment left wheel`."""
    words = prompt.split(maxsplit=1)
    if not words or words[0].lower() in TASK_WORDS:
        return prompt
    return f"{DEFAULT_TASK} {prompt}"
