"""The text of each generated token, as it appears in the answer."""

import codecs
import itertools
import re
from collections.abc import Sequence
from typing import Any, Final

_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte of an unknown character
_REPLACEMENT: Final = "\ufffd"


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """One text for each token, spaces as spaces; joined, they are the decoded answer.

    A character whose bytes are spread over several tokens is the text of the last one.
    """
    backend = tokenizer.backend_tokenizer
    pieces = [(token_id, _BYTE_PIECE.fullmatch(backend.id_to_token(token_id) or "")) for token_id in token_ids]
    texts: list[str] = []
    for are_bytes, run in itertools.groupby(pieces, key=lambda piece: piece[1] is not None):
        if are_bytes:
            texts += _byte_texts(bytes(int(match[1], 16) for _, match in run if match is not None))
        else:
            texts += [backend.decode([token_id], skip_special_tokens=False) for token_id, _ in run]
    return texts


def _byte_texts(run: bytes) -> list[str]:
    """Returns one text per byte. A run that is not UTF-8 is replaced as a whole, as the tokenizers library does."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        texts = [decoder.decode(run[index : index + 1]) for index in range(len(run))]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return [_REPLACEMENT] * len(run)
    return texts
