"""When a model starts to repeat an object."""

import pytest
from letters import EOS, FIRST_LOC, FIRST_SEG, IDS, SEP, SPACE, TEXT, letter_vocabulary

from paligemma_engine.answers.repeats import RepeatDetector
from paligemma_engine.answers.vocabulary import Task

SEPARATOR = [IDS[SEP], IDS[SPACE]]


def repeat_at(task: Task, token_ids: list[int]) -> int | None:
    detector = RepeatDetector(letter_vocabulary(), task)
    return next((position for position, token_id in enumerate(token_ids) if detector.is_repeat(token_id)), None)


def masked(first: int, code: int = 0) -> list[int]:
    return [*range(FIRST_LOC + first, FIRST_LOC + first + 4), *[FIRST_SEG + code] * 16]


def boxed(first: int, label: str) -> list[int]:
    return [*range(FIRST_LOC + first, FIRST_LOC + first + 4), *(IDS[letter] for letter in label)]


def test_a_mask_seen_before_is_a_repeat_at_its_last_token() -> None:
    tokens = masked(0) + SEPARATOR + masked(10) + SEPARATOR + masked(0)
    assert repeat_at(Task.SEGMENT, tokens) == len(tokens) - 1


@pytest.mark.parametrize("other", [masked(1), masked(0, code=1)])
def test_another_box_or_mask_is_none(other: list[int]) -> None:
    assert repeat_at(Task.SEGMENT, masked(0) + SEPARATOR + other + [IDS[EOS]]) is None


def test_a_detected_box_repeats_with_its_label_at_the_separator() -> None:
    tokens = boxed(0, "tt") + SEPARATOR + boxed(0, "tt") + SEPARATOR
    assert repeat_at(Task.DETECT, tokens) == len(tokens) - 2


def test_one_box_may_have_two_labels() -> None:
    tokens = boxed(0, TEXT) + SEPARATOR + boxed(0, TEXT * 2) + SEPARATOR
    assert repeat_at(Task.DETECT, tokens) is None
