"""From PaliGemma's tensors to objects over several targets."""

import pytest

from paligemma_tokens import InvalidTokens, parse_answer

BOX = b"<loc0100><loc0200><loc0300><loc0400>"


def test_targets_keep_their_order_and_name_what_is_unnamed() -> None:
    found = parse_answer([BOX, BOX, b" moon"], [0.0] * 3, [1, 0, 0], [b"sun", b"star"])
    assert [each.label for each in found] == ["moon", "star"]


def test_the_same_place_under_two_targets_is_two_objects() -> None:
    assert len(parse_answer([BOX, BOX], [0.0, 0.0], [0, 1], [b"sun", b"star"])) == 2


def test_no_tokens_are_no_objects() -> None:
    assert parse_answer([], [], [], [b"cat"]) == []


def test_bytes_that_are_no_text_are_read_all_the_same() -> None:
    (found,) = parse_answer([BOX, b" \xff\xfe"], [0.0, 0.0], [0, 0], [b"cat"])
    assert found.label == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("tokens", "logprobs", "sequence"),
    [([BOX], [0.0, 0.0], [0]), ([BOX], [0.0], []), ([BOX], [0.0], [1]), ([BOX], [0.0], [-1])],
)
def test_contradicting_tensors_are_refused(tokens: list[bytes], logprobs: list[float], sequence: list[int]) -> None:
    with pytest.raises(InvalidTokens):
        parse_answer(tokens, logprobs, sequence, [b"cat"])
