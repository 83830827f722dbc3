"""The loc and seg tokens that encode boxes and masks, and their numeric values.

Source: google-research/big_vision, `big_vision/pp/proj/paligemma/segmentation.py`, and the PaliGemma README there
("Tokenizer").
"""

import re
from typing import Final

LOC_BINS: Final = 1024  # <loc0000> .. <loc1023>: a coordinate, round(fraction * 1023)
SEG_CODES: Final = 128  # <seg000> .. <seg127>: an entry of the mask codebook
LOCS_PER_BOX: Final = 4  # y_min, x_min, y_max, x_max
CODES_PER_MASK: Final = 16  # a 4x4 grid in raster order
NO_CODE: Final = -1  # fills the codes of an object that has no mask

SEPARATOR: Final = " ; "  # between the objects of one answer, and between targets in a prompt
SPECIAL_TOKENS: Final = ("<eos>", "<bos>", "<pad>")

_LOC_DIGITS: Final = 4
_SEG_DIGITS: Final = 3

LOC_PATTERN: Final = re.compile(r"<loc([0-9]+)>")
SEG_PATTERN: Final = re.compile(r"<seg([0-9]+)>")


def loc_token(loc_bin: int) -> str:
    """The token of a bin in [0, 1023]: 7 -> `<loc0007>`."""
    if not 0 <= loc_bin < LOC_BINS:
        raise ValueError(f"loc bin {loc_bin} is outside [0, {LOC_BINS - 1}]")
    return f"<loc{loc_bin:0{_LOC_DIGITS}d}>"


def seg_token(code: int) -> str:
    """The token of a code in [0, 127]: 7 -> `<seg007>`."""
    if not 0 <= code < SEG_CODES:
        raise ValueError(f"code {code} is outside [0, {SEG_CODES - 1}]")
    return f"<seg{code:0{_SEG_DIGITS}d}>"


def loc_bin_of(digits: str) -> int | None:
    """The bin that the digits of a loc token name, or None where the vocabulary has no such token."""
    return _number(digits, digit_count=_LOC_DIGITS, limit=LOC_BINS)


def code_of(digits: str) -> int | None:
    """The code that the digits of a seg token name, or None where the vocabulary has no such token."""
    return _number(digits, digit_count=_SEG_DIGITS, limit=SEG_CODES)


def fraction_of(loc_bin: int) -> float:
    """Where a bin lies along its side, in [0, 1]: bin / 1023, the exact inverse of big_vision's training encoder.

    Several public parsers divide by 1024 and so can never reach the last row or column of the picture.
    """
    return loc_bin / (LOC_BINS - 1)


def _number(digits: str, *, digit_count: int, limit: int) -> int | None:
    if len(digits) != digit_count:
        return None
    number = int(digits)
    return number if number < limit else None
