"""The gateway splits prompts into targets as the engine does; neither imports the other."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.answers.segmentation import TARGET_JOINER
from gateway.inputs import prompts as gateway
from gateway.schemas import MAX_PROMPT_CHARACTERS
from paligemma_engine.errors import InvalidPrompt
from paligemma_engine.preparation import prompts as engine
from paligemma_engine.requests import tensors

WORDS = ["segment", "Segment", "detect", "Detect", "caption", "answer en", "segmented", "cat", "left  wheel", "é"]
GAPS = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", ";", " ; ", ";;", ";\x1f", ""]

prompts = st.lists(st.sampled_from([*WORDS, *GAPS]), max_size=30).map("".join) | st.text(max_size=60)
segment_prompts = prompts.map(lambda text: f"segment {text}")


def asked_of_the_engine(prompt: str) -> list[tuple[str, str]] | None:
    """Each target, and what the model is given for it; None where the prompt is refused."""
    try:
        return [(asked.target, asked.text) for asked in engine.split_prompt(prompt)]
    except InvalidPrompt:
        return None


@given(prompts | segment_prompts)
@example("segment cat ; dog")
@example("segment cat;cat")
@example(" Segment\u00a0cat ;; left  wheel ; ")
@example("segment " + " ; ".join("abcdefgh"))
@example("segment " + " ; ".join("abcdefghi"))
@example("segment ;")
@example("segment")
@example("detect cat ; dog")
@example("detect ;")
@example("")
@example("left wheel ; right wheel")
@example("segment a;" + "b" * (MAX_PROMPT_CHARACTERS - 10))
@example("segment a;" + "b" * (MAX_PROMPT_CHARACTERS - 9))
def test_targets_asked_one_by_one_are_those_of_the_whole_prompt(prompt: str) -> None:
    prompt = gateway.with_task(prompt)
    whole, parts = asked_of_the_engine(prompt), gateway.split_prompt(prompt)
    if whole is None:
        assert [part.prompt for part in parts] == [prompt]
        return
    assert [asked_of_the_engine(part.prompt) for part in parts] == [[asked] for asked in whole]
    assert [part.target for part in parts] == [target for target, _ in whole]


@pytest.mark.parametrize("name", ["MAX_TARGETS", "MAX_PROMPT_CHARACTERS", "TARGET_SEPARATOR"])
def test_the_limits_are_the_engines(name: str) -> None:
    assert getattr(gateway, name) == getattr(engine, name)


def test_the_texts_of_targets_are_joined_as_the_engine_joins_them() -> None:
    assert TARGET_JOINER == tensors.TARGET_JOINER
