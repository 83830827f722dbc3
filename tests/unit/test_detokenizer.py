"""Texts of tokens: joined, they are the decoded answer."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from engines import demo_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from paligemma_engine.answers.detokenizer import token_texts


def gemma_like() -> Tokenizer:
    """Spaces as in SentencePiece, unknown characters as bytes: how Gemma's tokenizer decodes."""
    pieces = ["<eos>", "\u2581cat", "\u2581", ";", "naive", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_tokens([AddedToken(f"<loc{loc_bin:04d}>", normalized=False) for loc_bin in range(3)])
    return tokenizer


TOKENIZER = gemma_like()


def texts(*pieces: str) -> list[str]:
    return token_texts(SimpleNamespace(backend_tokenizer=TOKENIZER), [TOKENIZER.token_to_id(piece) for piece in pieces])


def test_spaces_are_spaces() -> None:
    assert texts("<loc0001>", "\u2581", "<loc0002>", "\u2581cat", "\u2581", ";") == [
        "<loc0001>",
        " ",
        "<loc0002>",
        " cat",
        " ",
        ";",
    ]


def test_a_leading_space_is_kept() -> None:
    assert texts("\u2581cat") == [" cat"]


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    assert texts("\u2581cat", "<0xE4>", "<0xB8>", "<0xAD>", ";") == [" cat", "", "", "中", ";"]


def test_an_unfinished_character_is_not_lost() -> None:
    assert texts("\u2581cat", "<0xE4>", "<0xB8>") == [" cat", "\ufffd", "\ufffd"]


def test_no_tokens() -> None:
    assert texts() == []


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=30))
def test_joined_texts_are_the_decoded_answer(token_ids: list[int]) -> None:
    found = token_texts(SimpleNamespace(backend_tokenizer=TOKENIZER), token_ids)
    assert len(found) == len(token_ids)
    assert "".join(found) == TOKENIZER.decode(token_ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", ["<loc0100><loc0200><loc0300><loc0400><seg001> red circle ; <loc0001>"])
def test_the_demo_tokenizer(models_dir: Path, text: str) -> None:
    tokenizer = demo_checkpoint(models_dir).processor.tokenizer
    assert "".join(token_texts(tokenizer, tokenizer(text)["input_ids"])) == text
