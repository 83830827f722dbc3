"""Keeps `segment` and `detect` answers well-formed: a state machine over token classes.

    segment:  START -> LOC x 4 -> [space] -> SEG x 16 -> [label] -> ( ` ; ` -> LOC ... | end )
    detect:   START -> LOC x 4 ->                        [label] -> ( ` ; ` -> LOC ... | end )

At START the answer may also end: then there is no such object. Two tables hold the machine, so that a decode step can
apply it on the device: which tokens a state allows, and which state follows each token. An answer that is well-formed
without the grammar is not changed by it. A malformed one (17 seg tokens, half a box) becomes usable.
"""

import enum
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from paligemma_engine.answers.vocabulary import CODES_PER_MASK, LOCS_PER_BOX, Task, TokenClass, Vocabulary

_LABEL_PARTS: Final = (TokenClass.TEXT, TokenClass.SPACE)
_ENDS: Final = (TokenClass.SEPARATOR, TokenClass.EOS)


class Point(enum.Enum):
    """A position in an answer."""

    FREE = "anything may follow"
    START = "nothing written yet"
    SEPARATED = "after ` ; `"
    BOX = "inside a box"
    BOXED = "after a whole box"
    MASK = "inside a mask"
    MASKED = "after a whole mask"
    LABEL = "inside a label"


State = tuple[Task, Point, int]  # the number counts the tokens of the box or mask so far

_FREE_STATE: Final[State] = (Task.OTHER, Point.FREE, 0)


def successors(state: State) -> dict[TokenClass, State]:
    """Returns the token classes that a state allows, with the state that follows each."""
    task, point, count = state
    first_loc: State = (task, Point.BOX, 1)
    next_object: State = (task, Point.SEPARATED, 0)
    label: State = (task, Point.LABEL, 0)
    done = _FREE_STATE
    after_object = {
        **dict.fromkeys(_LABEL_PARTS, label),
        TokenClass.SEPARATOR: next_object,
        TokenClass.EOS: done,
    }
    match point:
        case Point.FREE:
            return dict.fromkeys(TokenClass, state)
        case Point.START:
            return {TokenClass.LOC: first_loc, TokenClass.EOS: done}
        case Point.SEPARATED:
            separated = {TokenClass.LOC: first_loc, TokenClass.EOS: done}
            return separated if count else {**separated, TokenClass.SPACE: (task, Point.SEPARATED, 1)}
        case Point.BOX:
            whole = count + 1 == LOCS_PER_BOX
            return {TokenClass.LOC: (task, Point.BOXED, 0) if whole else (task, Point.BOX, count + 1)}
        case Point.BOXED if task is Task.SEGMENT:
            first_seg: dict[TokenClass, State] = {TokenClass.SEG: (task, Point.MASK, 1)}
            return first_seg if count else {**first_seg, TokenClass.SPACE: (task, Point.BOXED, 1)}
        case Point.MASK:
            whole = count + 1 == CODES_PER_MASK
            return {TokenClass.SEG: (task, Point.MASKED, 0) if whole else (task, Point.MASK, count + 1)}
        case _:  # BOXED in a detect answer, MASKED, LABEL
            return after_object


@dataclass(frozen=True, slots=True)
class Grammar:
    """The state machine as tables over S states and V tokens.

    Attributes:
        allowed: bool[S, V], whether a state allows a token.
        next_state: int64[S, C], the state after a token of a class.
        classes: int64[V], the class of each token.
        start: the first state of an answer to each task.
    """

    allowed: NDArray[np.bool_]
    next_state: NDArray[np.int64]
    classes: NDArray[np.int64]
    start: dict[Task, int]

    @classmethod
    def build(cls, vocabulary: Vocabulary, *, enabled: bool) -> Self:
        """Returns the tables for a vocabulary. If `enabled` is false, every state allows every token."""
        starts: dict[Task, State] = {task: (task, Point.START, 0) for task in (Task.SEGMENT, Task.DETECT)}
        if not enabled:
            starts = dict.fromkeys(starts, _FREE_STATE)
        starts[Task.OTHER] = _FREE_STATE
        index = {state: number for number, state in enumerate(_reachable([_FREE_STATE, *starts.values()]))}
        allowed_classes = np.zeros((len(index), len(TokenClass)), np.bool_)
        next_state = np.zeros((len(index), len(TokenClass)), np.int64)
        for state, number in index.items():
            for token_class, following in successors(state).items():
                allowed_classes[number, token_class] = True
                next_state[number, token_class] = index[following]
        return cls(
            allowed=allowed_classes[:, vocabulary.classes],
            next_state=next_state,
            classes=vocabulary.classes,
            start={task: index[state] for task, state in starts.items()},
        )


def _reachable(starts: list[State]) -> list[State]:
    found = dict.fromkeys(starts)
    frontier = list(found)
    while frontier:
        fresh = [following for following in successors(frontier.pop()).values() if following not in found]
        found.update(dict.fromkeys(fresh))
        frontier += fresh
    return list(found)
