"""The state machine of well-formed answers, over a vocabulary small enough to read."""

import pytest
from letters import BOX, IDS, MASK, letter_vocabulary

from paligemma_engine.answers.grammar import Grammar
from paligemma_engine.answers.vocabulary import Task


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.build(letter_vocabulary(), enabled=True)


def first_refused(grammar: Grammar, task: Task, answer: str) -> int | None:
    """Where the grammar refuses the next letter of an answer; None where it takes the whole of it."""
    state = grammar.start[task]
    for position, letter in enumerate(answer):
        token_id = IDS[letter]
        if not grammar.allowed[state, token_id]:
            return position
        state = int(grammar.next_state[state, grammar.classes[token_id]])
    return None


@pytest.mark.parametrize(
    "answer",
    [
        "$",
        f"{BOX}{MASK}$",
        f"{BOX}_{MASK}$",
        f"{BOX}{MASK}tt$",
        f"{BOX}_{MASK}_t_t$",
        f"{BOX}{MASK}t;_{BOX}{MASK}t$",
        f"{BOX}{MASK};{BOX}{MASK};_$",
        f"{BOX}_{MASK}t;_{BOX}_{MASK}t;_{BOX}_{MASK}t$",
    ],
)
def test_well_formed_segment_answers_pass(grammar: Grammar, answer: str) -> None:
    assert first_refused(grammar, Task.SEGMENT, answer) is None


@pytest.mark.parametrize("answer", ["$", f"{BOX}t$", f"{BOX}_tt;_{BOX}t$", f"{BOX}t;_$", f"{BOX}$"])
def test_well_formed_detect_answers_pass(grammar: Grammar, answer: str) -> None:
    assert first_refused(grammar, Task.DETECT, answer) is None


@pytest.mark.parametrize(
    ("task", "answer", "position"),
    [
        (Task.SEGMENT, "t", 0),
        (Task.SEGMENT, "S", 0),
        (Task.SEGMENT, "LLL$", 3),
        (Task.SEGMENT, "LLL;", 3),
        (Task.SEGMENT, f"{BOX}L", 4),
        (Task.SEGMENT, f"{BOX}$", 4),
        (Task.SEGMENT, f"{BOX}t", 4),
        (Task.SEGMENT, f"{BOX}__", 5),
        (Task.SEGMENT, f"{BOX}{MASK[:15]}$", 19),
        (Task.SEGMENT, f"{BOX}{MASK}S", 20),
        (Task.SEGMENT, f"{BOX}{MASK}L", 20),
        (Task.SEGMENT, f"{BOX}{MASK}tL", 21),
        (Task.SEGMENT, f"{BOX}{MASK};t", 21),
        (Task.SEGMENT, f"{BOX}{MASK};__", 22),
        (Task.SEGMENT, f"{BOX}{MASK}x", 20),
        (Task.DETECT, f"{BOX}S", 4),
        (Task.DETECT, f"{BOX}L", 4),
        (Task.DETECT, "LLt", 2),
        (Task.DETECT, f"{BOX}tS", 5),
    ],
)
def test_where_answers_go_wrong(grammar: Grammar, task: Task, answer: str, position: int) -> None:
    assert first_refused(grammar, task, answer) == position


def test_every_state_allows_something(grammar: Grammar) -> None:
    assert grammar.allowed.any(axis=1).all()


def test_other_prompts_are_free(grammar: Grammar) -> None:
    assert first_refused(grammar, Task.OTHER, "txLS;_t$L") is None


@pytest.mark.parametrize("task", list(Task))
def test_switched_off_everything_is_free(task: Task) -> None:
    assert first_refused(Grammar.build(letter_vocabulary(), enabled=False), task, "txLS;_tSSS") is None
