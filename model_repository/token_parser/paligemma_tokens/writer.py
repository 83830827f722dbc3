"""Writes objects as the tokens of an answer: the parser's inverse."""

import enum
from collections.abc import Sequence

from paligemma_tokens.objects import ParsedObject
from paligemma_tokens.vocabulary import SEPARATOR, loc_token, seg_token


class Form(enum.Enum):
    """The written forms of an answer; the parser's module docstring says who writes which."""

    SPACED = "loc, space, seg, label"
    BARE = "loc, seg"
    LABELLED = "loc, seg, label"


def write_tokens(objects: Sequence[ParsedObject], form: Form) -> list[str]:
    """The token texts of an answer in one sequence; objects without codes come out as a detect answer has them."""
    tokens: list[str] = []
    for parsed in objects:
        if tokens:
            tokens.append(SEPARATOR)
        tokens += [loc_token(loc_bin) for loc_bin in parsed.loc_bins_yxyx]
        if parsed.codes is not None:
            tokens += [" "] if form is Form.SPACED else []
            tokens += [seg_token(code) for code in parsed.codes]
        if form is not Form.BARE and parsed.label:
            tokens.append(f" {parsed.label}")
    return tokens
