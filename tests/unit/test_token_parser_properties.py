"""Whatever a model generates is parsed without an error, and what is written is read back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paligemma_tokens import Form, ParsedObject, parse_answer, parse_sequence, to_tensors, write_tokens
from paligemma_tokens.vocabulary import CODES_PER_MASK, LOC_BINS, SEG_CODES

loc_tokens = st.integers(0, 1100).map(lambda number: f"<loc{number:04d}>")
seg_tokens = st.integers(0, 140).map(lambda number: f"<seg{number:03d}>")
text_tokens = st.one_of(
    st.text(max_size=8), st.sampled_from([" ", " ; ", ";", " cat", "<eos>", "<loc", ">", "\n", "<image>"])
)
any_tokens = st.lists(st.one_of(loc_tokens, loc_tokens, seg_tokens, seg_tokens, text_tokens), max_size=80)

labels = st.lists(st.sampled_from(["left", "wheel", "a", "6", "cat's", "naïve", "<3"]), min_size=1, max_size=3).map(
    " ".join
)


@st.composite
def objects(draw: st.DrawFn) -> ParsedObject:
    y_min, x_min = draw(st.integers(0, LOC_BINS - 2)), draw(st.integers(0, LOC_BINS - 2))
    y_max, x_max = draw(st.integers(y_min + 1, LOC_BINS - 1)), draw(st.integers(x_min + 1, LOC_BINS - 1))
    codes = st.lists(st.integers(0, SEG_CODES - 1), min_size=CODES_PER_MASK, max_size=CODES_PER_MASK).map(tuple)
    mask = draw(st.none() | codes)
    return ParsedObject(draw(labels), (y_min, x_min, y_max, x_max), mask, 1.0, 0.0 if mask is None else 1.0)


def distinct(found: ParsedObject) -> tuple[object, ...]:
    return found.loc_bins_yxyx, found.codes, found.label


@given(any_tokens, st.floats(allow_nan=True), st.text(max_size=5))
def test_any_tokens_are_parsed(tokens: list[str], logprob: float, target: str) -> None:
    found = parse_sequence(tokens, [logprob] * len(tokens), target=target)
    assert len({distinct(each) for each in found}) == len(found)
    for each in found:
        y_min, x_min, y_max, x_max = each.loc_bins_yxyx
        assert 0 <= y_min < y_max < LOC_BINS
        assert 0 <= x_min < x_max < LOC_BINS
        assert each.codes is None or (len(each.codes) == 16 and all(0 <= code < SEG_CODES for code in each.codes))
        assert 0 <= each.box_score <= 1
        assert 0 <= each.mask_score <= 1


@given(any_tokens)
def test_where_tokens_are_cut_does_not_matter(tokens: list[str]) -> None:
    """One token a character, or the whole answer as one token: the same objects."""
    text = "".join(tokens)
    cut = parse_sequence(list(text), [0.0] * len(text))
    whole = parse_sequence([text], [0.0])
    assert cut == whole == parse_sequence(tokens, [0.0] * len(tokens))


@given(st.lists(objects(), max_size=6, unique_by=distinct), st.sampled_from(Form))
def test_what_is_written_is_read_back(written: list[ParsedObject], form: Form) -> None:
    if form is Form.BARE:  # names nothing: every object takes the target's name
        written = [ParsedObject("target", *distinct(each)[:2], each.box_score, each.mask_score) for each in written]
        written = list({distinct(each): each for each in written}.values())
    tokens = write_tokens(written, form)
    assert parse_sequence(tokens, [0.0] * len(tokens), target="target") == written


@given(st.lists(st.tuples(st.one_of(loc_tokens, seg_tokens, text_tokens), st.integers(0, 2)), max_size=60))
def test_any_answer_becomes_tensors_of_one_length(tokens: list[tuple[str, int]]) -> None:
    found = parse_answer(
        [text.encode() for text, _ in tokens], [0.0] * len(tokens), [owner for _, owner in tokens], [b"a", b"b", b"c"]
    )
    tensors = to_tensors(found)
    count = len(found)
    assert (tensors.boxes_xyxy.shape, tensors.boxes_xyxy.dtype) == ((count, 4), np.float32)
    assert (tensors.codes.shape, tensors.codes.dtype) == ((count, 16), np.int32)
    assert (tensors.scores.shape, tensors.scores.dtype) == ((count, 2), np.float32)
    assert (tensors.labels.shape, tensors.has_mask.shape) == ((count,), (count,))
    assert all((row == -1).all() for row, has_mask in zip(tensors.codes, tensors.has_mask, strict=True) if not has_mask)
