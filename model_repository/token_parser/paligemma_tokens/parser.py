"""Reads the objects out of PaliGemma's answers.

Checkpoints write a segment answer in three forms, and a detect answer in one:

    <loc> x 4, space, <seg> x 16, space, label     pre-trained PaliGemma
    <loc> x 4, <seg> x 16                          PaliGemma 2 mix: no label, it comes from the prompt
    <loc> x 4, <seg> x 16, space, label            common fine-tunes
    <loc> x 4, space, label                        detect

Objects are joined by ` ; `. Real answers also go wrong. What is then done with them:

    a run of loc tokens that is not exactly 4 long     no object: nobody knows which four were meant
    a bin out of range, or an empty box                no object, as in big_vision's evaluator
    more than 16 seg tokens                            the first 16 are the mask, as in big_vision's evaluator
    fewer than 16, or a code out of range              an object with a box and no mask
    the same object again in one sequence              kept once
    text before or between objects, stray seg tokens   passed over
"""

import math
from collections.abc import Sequence

from paligemma_tokens.lexer import Kind, Lexeme, lex
from paligemma_tokens.objects import ParsedObject
from paligemma_tokens.vocabulary import CODES_PER_MASK, LOCS_PER_BOX


def parse_sequence(tokens: Sequence[str], logprobs: Sequence[float], *, target: str = "") -> list[ParsedObject]:
    """The objects of one sequence, in the order of the answer; any text is accepted.

    Args:
        tokens: the texts of the generated tokens.
        logprobs: one for each token.
        target: the label of objects that the answer leaves unnamed.

    Raises:
        ValueError: tokens and logprobs differ in length.
    """
    if len(tokens) != len(logprobs):
        raise ValueError(f"{len(tokens)} tokens but {len(logprobs)} logprobs")
    lexemes = lex(tokens, logprobs)
    found: dict[tuple[object, ...], ParsedObject] = {}
    position = 0
    while position < len(lexemes):
        if lexemes[position].kind is not Kind.LOC:
            position += 1
            continue
        locs, position = _run(lexemes, position, Kind.LOC)
        segs, position = _run(lexemes, _skip_space(lexemes, position), Kind.SEG)
        label, position = _label(lexemes, position)
        parsed = _build(locs, segs, label or target)
        if parsed is not None:
            found.setdefault((parsed.loc_bins_yxyx, parsed.codes, parsed.label), parsed)
    return list(found.values())


def _run(lexemes: list[Lexeme], start: int, kind: Kind) -> tuple[list[Lexeme], int]:
    end = start
    while end < len(lexemes) and lexemes[end].kind is kind:
        end += 1
    return lexemes[start:end], end


def _skip_space(lexemes: list[Lexeme], position: int) -> int:
    at_space = position < len(lexemes) and lexemes[position].kind is Kind.TEXT and not lexemes[position].text.strip()
    return position + 1 if at_space else position


def _label(lexemes: list[Lexeme], start: int) -> tuple[str, int]:
    """The text up to the next separator or box; seg tokens on the way belong to no mask."""
    end = start
    while end < len(lexemes) and lexemes[end].kind in (Kind.TEXT, Kind.SEG):
        end += 1
    words = " ".join(lexeme.text for lexeme in lexemes[start:end] if lexeme.kind is Kind.TEXT).split()
    return " ".join(words), end


def _build(locs: list[Lexeme], segs: list[Lexeme], label: str) -> ParsedObject | None:
    bins = tuple(lexeme.value for lexeme in locs if lexeme.value is not None)
    if len(locs) != LOCS_PER_BOX or len(bins) != LOCS_PER_BOX:
        return None
    y_min, x_min, y_max, x_max = bins
    if y_min >= y_max or x_min >= x_max:
        return None
    mask_lexemes = segs[:CODES_PER_MASK]
    codes = tuple(lexeme.value for lexeme in mask_lexemes if lexeme.value is not None)
    has_mask = len(codes) == CODES_PER_MASK
    return ParsedObject(
        label=label,
        loc_bins_yxyx=(y_min, x_min, y_max, x_max),
        codes=codes if has_mask else None,
        box_score=_geometric_mean(locs),
        mask_score=_geometric_mean(mask_lexemes) if has_mask else 0.0,
    )


def _geometric_mean(lexemes: list[Lexeme]) -> float:
    return math.exp(sum(lexeme.logprob for lexeme in lexemes) / len(lexemes))
