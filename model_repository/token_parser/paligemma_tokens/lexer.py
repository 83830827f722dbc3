"""Cuts the text of one sequence into lexemes and gives each one its log-probability."""

import bisect
import enum
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from paligemma_tokens.vocabulary import LOC_PATTERN, SEG_PATTERN, SPECIAL_TOKENS, code_of, loc_bin_of


class Kind(enum.Enum):
    """What a lexeme is."""

    LOC = enum.auto()
    SEG = enum.auto()
    TEXT = enum.auto()
    SEPARATOR = enum.auto()


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A loc token, a seg token, a `;`, or the text between them.

    Attributes:
        kind: what it is.
        text: as it stands in the answer.
        value: the bin or code of a loc or seg token; None where it is out of range, and for the other kinds.
        logprob: log-probability, at most 0; the sum over the generated tokens that the lexeme touches.
    """

    kind: Kind
    text: str
    value: int | None = None
    logprob: float = 0.0


_LEXEME = re.compile("|".join([LOC_PATTERN.pattern, SEG_PATTERN.pattern, "(;)", f"({'|'.join(SPECIAL_TOKENS)})"]))


def lex(tokens: Sequence[str], logprobs: Sequence[float]) -> list[Lexeme]:
    """The lexemes of one sequence; special tokens are left out.

    The cut follows the joined text, not the token borders, so that a tokenizer which splits `<loc0012>` into
    pieces, or a caller who sends a whole answer as one token, is read all the same.

    Args:
        tokens: the texts of the generated tokens.
        logprobs: one for each token; NaN counts as impossible, a positive value as certain.
    """
    text = "".join(tokens)
    token_ends = list(itertools.accumulate(len(token) for token in tokens))
    clean_logprobs = [_clean(logprob) for logprob in logprobs]

    def logprob_of(start: int, end: int) -> float:
        first = bisect.bisect_right(token_ends, start)
        last = bisect.bisect_left(token_ends, end)
        return sum(clean_logprobs[first : last + 1])

    lexemes: list[Lexeme] = []
    position = 0
    for match in _LEXEME.finditer(text):
        _append_text(lexemes, text[position : match.start()])
        position = match.end()
        loc_digits, seg_digits, separator, _special = match.groups()
        if loc_digits is not None:
            lexemes.append(Lexeme(Kind.LOC, match[0], loc_bin_of(loc_digits), logprob_of(*match.span())))
        elif seg_digits is not None:
            lexemes.append(Lexeme(Kind.SEG, match[0], code_of(seg_digits), logprob_of(*match.span())))
        elif separator is not None:
            lexemes.append(Lexeme(Kind.SEPARATOR, match[0]))
    _append_text(lexemes, text[position:])
    return lexemes


def _append_text(lexemes: list[Lexeme], text: str) -> None:
    if text:
        lexemes.append(Lexeme(Kind.TEXT, text))


def _clean(logprob: float) -> float:
    return -math.inf if math.isnan(logprob) else min(logprob, 0.0)
