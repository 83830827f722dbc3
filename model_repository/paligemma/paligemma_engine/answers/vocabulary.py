"""The tasks of prompts, and the classes of a checkpoint's tokens in an answer."""

import enum
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from paligemma_engine.errors import ModelFailed

LOC_BINS: Final = 1024  # <loc0000> .. <loc1023>; google-research/big_vision, PaliGemma README, "Tokenizer"
SEG_CODES: Final = 128  # <seg000> .. <seg127>
LOCS_PER_BOX: Final = 4
CODES_PER_MASK: Final = 16

_PIECE_SPACE: Final = "\u2581"  # how SentencePiece writes a space


class Task(enum.Enum):
    """The task of a prompt; it decides the grammar of the answer."""

    SEGMENT = "segment"
    DETECT = "detect"
    OTHER = "other"


class TokenClass(enum.IntEnum):
    """What a token is to the grammar."""

    TEXT = 0
    LOC = 1
    SEG = 2
    SPACE = 3
    SEPARATOR = 4
    EOS = 5
    NEVER = 6  # padding rows of the embedding, and special tokens that no answer holds


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a checkpoint.

    Attributes:
        classes: int64[V], a TokenClass for each row of the model's output.
        eos_ids: the tokens that end an answer.
    """

    classes: NDArray[np.int64]
    eos_ids: frozenset[int]

    @classmethod
    def read(cls, tokenizer: Any, *, size: int, eos_ids: frozenset[int]) -> Self:
        """Classifies a tokenizer's tokens.

        Args:
            tokenizer: a transformers tokenizer.
            size: V, the rows of the model's output; may exceed the tokenizer's own vocabulary.
            eos_ids: the tokens that end an answer, from the checkpoint's generation config.

        Raises:
            ModelFailed: the tokenizer lacks loc or seg tokens.
        """
        ids = tokenizer.get_vocab()
        classes = np.full(size, TokenClass.NEVER, np.int64)
        special_ids = set(tokenizer.all_special_ids)
        for piece, token_id in ids.items():
            if token_id < size and token_id not in special_ids:
                classes[token_id] = _class_of_text(piece.replace(_PIECE_SPACE, " "))
        known = {piece: token_id for piece, token_id in ids.items() if token_id < size}
        classes[_ids_of(known, [f"<loc{loc_bin:04d}>" for loc_bin in range(LOC_BINS)])] = TokenClass.LOC
        classes[_ids_of(known, [f"<seg{code:03d}>" for code in range(SEG_CODES)])] = TokenClass.SEG
        classes[list(eos_ids)] = TokenClass.EOS
        return cls(classes=classes, eos_ids=eos_ids)

    def class_of(self, token_id: int) -> TokenClass:
        """What a token is to the grammar."""
        return TokenClass(int(self.classes[token_id]))


def _class_of_text(text: str) -> TokenClass:
    if text == " ":
        return TokenClass.SPACE
    return TokenClass.SEPARATOR if text.strip() == ";" else TokenClass.TEXT


def _ids_of(ids: dict[str, int], tokens: list[str]) -> list[int]:
    """Returns the ids of a family of tokens.

    PaliGemma's processor appends tokens that a tokenizer lacks, and no weights belong to those. In PaliGemma's
    checkpoints the ids of a family are consecutive, so others are refused.
    """
    missing = [
        token
        for index, token in enumerate(tokens)
        if token not in ids or (tokens[0] in ids and ids[token] != ids[tokens[0]] + index)
    ]
    if missing:
        raise ModelFailed(f"the tokenizer has no {missing[0]}; this checkpoint cannot write boxes and masks")
    return [ids[token] for token in tokens]
