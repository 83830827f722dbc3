"""The contents of a request: a picture, a prompt and options."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal, TypedDict

Task = Literal["segment", "detect"]
Prompt = str | Sequence[str]  # one prompt, or a list of targets

MAX_TARGETS: Final = 8  # of one `segment` prompt, as the engine has it; more become further questions
TARGET_SEPARATOR: Final = " ; "
_TASK_WORDS: Final[tuple[Task, ...]] = ("segment", "detect")


class AskingFields(TypedDict, total=False):
    """Asking, as the clients' calls take it."""

    model_id: str | None
    max_new_tokens: int | None
    min_score: float
    tiles: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The options of a request.

    Attributes:
        model_id: None for the server's default.
        max_new_tokens: bound on the tokens for each target; None for the server's.
        min_score: objects with a lower box score are left out.
        tiles: None, "auto" or a grid such as "2x2" (columns x rows): the picture is sent in overlapping tiles.
    """

    model_id: str | None = None
    max_new_tokens: int | None = None
    min_score: float = 0.0
    tiles: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request.

    Attributes:
        picture: an encoded file.
        prompt: with its task word.
        asking: the options.
    """

    picture: bytes
    prompt: str
    asking: Asking


def prompts_of(task: Task, prompt: Prompt) -> list[str]:
    """The prompts, each with its task word, that ask for all targets.

    Args:
        task: of targets that start with no task word of their own.
        prompt: one prompt, sent as it is; or targets, which are joined, at most MAX_TARGETS in a request.
    """
    if isinstance(prompt, str):
        return [" ".join(_split(task, prompt))]
    prompts = []
    for word, group in groupby((_split(task, part) for part in prompt), key=lambda split: split[0]):
        targets = [target for _, part in group for target in targets_of(part)]
        for first in range(0, len(targets), MAX_TARGETS):
            prompts.append(f"{word} {TARGET_SEPARATOR.join(targets[first : first + MAX_TARGETS])}")
    return prompts


def targets_of(prompt: str) -> list[str]:
    """The targets of a prompt, without its task word."""
    _, targets = _split("segment", prompt)
    return [target.strip() for target in targets.split(TARGET_SEPARATOR.strip()) if target.strip()]


def _split(task: Task, prompt: str) -> tuple[Task, str]:
    """The task word and the rest of a prompt."""
    for word in _TASK_WORDS:
        if prompt.lower().split(maxsplit=1)[:1] == [word]:
            return word, " ".join(prompt.split()[1:])
    return task, " ".join(prompt.split())
