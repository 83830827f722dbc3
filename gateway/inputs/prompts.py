"""What users write as a prompt, made into what PaliGemma expects."""

from typing import Final

# The task words that PaliGemma mix checkpoints were trained on.
TASK_WORDS: Final = frozenset({"segment", "detect", "caption", "cap", "describe", "ocr", "answer", "question"})
DEFAULT_TASK: Final = "segment"
TARGET_SEPARATOR: Final = ";"
MAX_TARGETS: Final = 8  # of one prompt; the engine's own limit


def with_task(prompt: str) -> str:
    """The prompt, with `segment ` before it where it starts with no task word: `left wheel` -> `segment left wheel`."""
    words = prompt.split(maxsplit=1)
    if not words or words[0].lower() in TASK_WORDS:
        return prompt
    return f"{DEFAULT_TASK} {prompt}"
