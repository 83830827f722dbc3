"""A vocabulary small enough to read: a letter for each class of token, and 100 loc and seg tokens each."""

import numpy as np

from paligemma_engine.answers.vocabulary import TokenClass, Vocabulary

LOC, SEG, SPACE, SEP, EOS, TEXT, NEVER = "L", "S", "_", ";", "$", "t", "x"
LETTERS = {
    LOC: TokenClass.LOC,
    SEG: TokenClass.SEG,
    SPACE: TokenClass.SPACE,
    SEP: TokenClass.SEPARATOR,
    EOS: TokenClass.EOS,
    TEXT: TokenClass.TEXT,
    NEVER: TokenClass.NEVER,
}
IDS = {letter: token_id for token_id, letter in enumerate(LETTERS)}
FIRST_LOC, FIRST_SEG, SIZE = 100, 200, 300
BOX, MASK = LOC * 4, SEG * 16


def letter_vocabulary() -> Vocabulary:
    classes = np.full(SIZE, TokenClass.NEVER, np.int64)
    classes[: len(LETTERS)] = list(LETTERS.values())
    classes[FIRST_LOC:FIRST_SEG] = TokenClass.LOC
    classes[FIRST_SEG:] = TokenClass.SEG
    return Vocabulary(classes=classes, eos_ids=frozenset({IDS[EOS]}))
