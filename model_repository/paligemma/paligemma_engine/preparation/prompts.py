"""Splits a prompt into the sequences that answer it."""

from typing import Final

from paligemma_engine.answers.vocabulary import Task
from paligemma_engine.errors import InvalidPrompt
from paligemma_engine.requests.prepared import TargetPrompt

MAX_TARGETS: Final = 8
MAX_PROMPT_CHARACTERS: Final = 4096  # 8 targets of the longest prompt in tokens, at 4 characters each
TARGET_SEPARATOR: Final = ";"


def split_prompt(prompt: str) -> list[TargetPrompt]:
    """Returns one prompt for each target of `segment a ; b`, one for any other prompt.

    Mix checkpoints answer only one target of such a prompt, so each target gets a sequence of its own. They were
    trained on `detect a ; b`, so that prompt is not split.

    Raises:
        InvalidPrompt: the prompt is too long, is empty, or has more than 8 targets.
    """
    if len(prompt) > MAX_PROMPT_CHARACTERS:  # checked before tokenization, which takes 1 s for each megabyte
        raise InvalidPrompt(f"the prompt has {len(prompt)} characters; send at most {MAX_PROMPT_CHARACTERS}")
    stripped = prompt.strip()
    if not stripped:
        raise InvalidPrompt("the prompt is empty; ask for something, such as 'segment cat'")
    word, *following = stripped.split()
    rest = " ".join(following)
    if word.lower() == Task.DETECT.value:
        if not rest.strip(f"{TARGET_SEPARATOR} "):
            raise InvalidPrompt("say what to detect, such as 'detect cat'")
        return [TargetPrompt(Task.DETECT, rest, f"{Task.DETECT.value} {rest}")]
    if word.lower() != Task.SEGMENT.value:
        return [TargetPrompt(Task.OTHER, stripped, stripped)]
    targets = [target.strip() for target in rest.split(TARGET_SEPARATOR)]
    targets = [target for target in targets if target]
    if not targets:
        raise InvalidPrompt("say what to segment, such as 'segment cat'")
    if len(targets) > MAX_TARGETS:
        raise InvalidPrompt(f"{len(targets)} targets; ask for at most {MAX_TARGETS} at once")
    return [TargetPrompt(Task.SEGMENT, target, f"{Task.SEGMENT.value} {target}") for target in targets]
