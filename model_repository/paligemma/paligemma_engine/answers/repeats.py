"""Detects an object that repeats an earlier one. Degenerate answers repeat objects until they run out of tokens."""

from paligemma_engine.answers.vocabulary import CODES_PER_MASK, LOCS_PER_BOX, Task, TokenClass, Vocabulary

_TOKENS_PER_MASKED_OBJECT = LOCS_PER_BOX + CODES_PER_MASK


class RepeatDetector:
    """Watches the tokens of one sequence.

    In a `segment` answer an object is a repeat if its box and mask equal an earlier object's. In a `detect` answer one
    box may have two labels, so box and label are compared; the label is complete at the separator.
    """

    def __init__(self, vocabulary: Vocabulary, task: Task) -> None:
        self._vocabulary = vocabulary
        self._task = task
        self._places: list[int] = []
        self._label: list[int] = []
        self._seen: set[tuple[int, ...]] = set()

    def is_repeat(self, token_id: int) -> bool:
        """Takes the next token; returns True if it completes an object that the sequence already has."""
        match self._vocabulary.class_of(token_id):
            case TokenClass.LOC | TokenClass.SEG:
                self._places.append(token_id)
                whole = self._task is Task.SEGMENT and len(self._places) == _TOKENS_PER_MASKED_OBJECT
                return whole and self._is_known((*self._places,))
            case TokenClass.SEPARATOR:
                key = (*self._places, *self._label)
                self._places, self._label = [], []
                return self._task is Task.DETECT and self._is_known(key)
            case TokenClass.TEXT:
                self._label.append(token_id)
        return False

    def _is_known(self, key: tuple[int, ...]) -> bool:
        known = key in self._seen
        self._seen.add(key)
        return known
