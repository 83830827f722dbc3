"""From prompts to sequences."""

import pytest

from paligemma_engine.answers.vocabulary import Task
from paligemma_engine.errors import InvalidPrompt
from paligemma_engine.preparation.prompts import split_prompt


def texts(prompt: str) -> list[str]:
    return [asked.text for asked in split_prompt(prompt)]


def test_each_target_of_segment_gets_a_sequence() -> None:
    assert texts("segment cat ; left wheel;dog") == ["segment cat", "segment left wheel", "segment dog"]
    assert [asked.target for asked in split_prompt("segment cat ; left wheel")] == ["cat", "left wheel"]


def test_detect_stays_whole() -> None:
    (asked,) = split_prompt("detect cat ; dog")
    assert (asked.task, asked.text, asked.target) == (Task.DETECT, "detect cat ; dog", "cat ; dog")


@pytest.mark.parametrize("prompt", ["caption en", "ocr", "answer en what colour is the car?", "what is this?"])
def test_other_prompts_go_as_they_are(prompt: str) -> None:
    (asked,) = split_prompt(prompt)
    assert (asked.task, asked.text, asked.target) == (Task.OTHER, prompt, prompt)


@pytest.mark.parametrize(
    "prompt", ["segment cat\n", "  segment   cat ", "Segment cat", "segment\tcat", "segment ; cat ;; "]
)
def test_spelling_of_the_task_does_not_matter(prompt: str) -> None:
    assert texts(prompt) == ["segment cat"]


def test_the_target_keeps_its_spelling() -> None:
    assert texts("segment Eiffel Tower") == ["segment Eiffel Tower"]


@pytest.mark.parametrize("prompt", ["", "  \n", "segment", "segment ;", "detect", "detect ; ;"])
def test_prompts_that_ask_for_nothing(prompt: str) -> None:
    with pytest.raises(InvalidPrompt):
        split_prompt(prompt)


def test_at_most_eight_targets() -> None:
    assert len(split_prompt("segment " + " ; ".join("abcdefgh"))) == 8
    with pytest.raises(InvalidPrompt, match="9 targets; ask for at most 8"):
        split_prompt("segment " + " ; ".join("abcdefghi"))
