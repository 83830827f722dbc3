"""What the parser makes of answers: the written forms, real answers, and everything that goes wrong in them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from paligemma_tokens import Form, ParsedObject, parse_sequence, write_tokens
from paligemma_tokens.vocabulary import fraction_of

REAL_ANSWERS = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "data" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
]
BOX = "<loc0100><loc0200><loc0300><loc0400>"
CODES = tuple(range(40, 56))
MASK = "".join(f"<seg{code:03d}>" for code in CODES)


def parse(text: str, target: str = "cat") -> list[ParsedObject]:
    return parse_sequence([text], [0.0], target=target)


def test_real_answers_are_there() -> None:
    assert len(REAL_ANSWERS) == 21
    assert all(answer["source"].startswith(("github ", "https://")) for answer in REAL_ANSWERS)


@pytest.mark.parametrize("answer", REAL_ANSWERS, ids=lambda answer: answer["what"])
def test_real_answer(answer: dict[str, Any]) -> None:
    objects = parse(answer["text"], target="TARGET")
    assert [
        {"loc_bins_yxyx": list(found.loc_bins_yxyx), "label": found.label, "has_mask": found.codes is not None}
        for found in objects
    ] == [{**expected, "label": expected["label"] or "TARGET"} for expected in answer["objects"]]


@pytest.mark.parametrize(
    ("text", "label"),
    [(f"{BOX} {MASK} wheel", "wheel"), (f"{BOX}{MASK}", "cat"), (f"{BOX}{MASK} wheel", "wheel")],
    ids=["loc space seg label", "loc seg", "loc seg label"],
)
def test_the_three_forms_of_a_segment_answer(text: str, label: str) -> None:
    (found,) = parse(text)
    assert found.loc_bins_yxyx == (100, 200, 300, 400)
    assert found.codes == CODES
    assert found.label == label


def test_a_detect_answer_has_boxes_and_no_masks() -> None:
    first, second = parse(f"{BOX} left wheel ; <loc0000><loc0000><loc1023><loc1023> car")
    assert (first.label, first.codes, first.mask_score) == ("left wheel", None, 0.0)
    assert second.box_xyxy == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ; ",
        "no objects here",
        "<loc0100><loc0200>",
        f"{BOX}<loc0500> cat",
        "<loc0300><loc0200><loc0100><loc0400>",
        "<loc0100><loc0400><loc0300><loc0200>",
        "<loc0100><loc0200><loc0100><loc0400>",
        "<loc0100><loc0200><loc0300><loc0200>",
        "<loc0100><loc0200><loc0300><loc1024>",
        "<loc0100><loc0200><loc0300><loc9999>",
        "<loc100><loc0200><loc0300><loc0400>",
        f"<loc{'9' * 5000}><loc0200><loc0300><loc0400>",
        MASK,
    ],
)
def test_no_object(text: str) -> None:
    assert parse(text) == []


def test_only_the_first_16_of_more_seg_tokens_count() -> None:
    (found,) = parse(f"{BOX}{MASK}<seg127> cat")
    assert found.codes == CODES


@pytest.mark.parametrize("mask", [MASK[: -len("<seg000>")], MASK.replace("<seg047>", "<seg128>"), "<seg001>", ""])
def test_an_object_without_a_usable_mask_keeps_its_box(mask: str) -> None:
    (found,) = parse(f"{BOX}{mask} cat")
    assert found.codes is None
    assert found.loc_bins_yxyx == (100, 200, 300, 400)


def test_a_repeated_object_is_kept_once() -> None:
    other = "<loc0001><loc0002><loc0003><loc0004> dog"
    objects = parse(f"{BOX} cat ; {other} ; {BOX} cat ; {BOX} cat ; {BOX} kitten")
    assert [found.label for found in objects] == ["cat", "dog", "kitten"]


def test_text_between_objects_and_stray_seg_tokens_are_passed_over() -> None:
    first, second = parse(f"I see {BOX}{MASK} cat <seg001> ; and <seg002> also {BOX.replace('0100', '0101')} dog")
    assert (first.label, second.label) == ("cat", "dog")


@pytest.mark.parametrize("tail", ["<eos>", " ; ", " ;", "\n", "<eos><pad><pad>", " ; <eos>"])
def test_what_may_follow_the_last_label(tail: str) -> None:
    (found,) = parse(f"{BOX}{MASK} left wheel{tail}")
    assert found.label == "left wheel"


def test_boxes_divide_by_1023_so_that_the_last_bin_is_the_edge() -> None:
    """Parsers that divide by 1024 can never reach the last row or column."""
    assert [fraction_of(loc_bin) for loc_bin in (0, 1023)] == [0.0, 1.0]
    (found,) = parse("<loc0256><loc0512><loc0768><loc1023>")
    assert found.box_xyxy == (512 / 1023, 256 / 1023, 1.0, 768 / 1023)


def test_scores_are_geometric_means_over_the_tokens_of_box_and_mask() -> None:
    tokens = [f"<loc{loc_bin:04d}>" for loc_bin in (100, 200, 300, 400)]
    tokens += [f"<seg{code:03d}>" for code in CODES] + [" cat"]
    logprobs = [math.log(0.5)] * 3 + [math.log(0.5 * 0.0001)] + [math.log(0.9)] * 16 + [-50.0]
    (found,) = parse_sequence(tokens, logprobs)
    assert found.box_score == pytest.approx(0.05)
    assert found.mask_score == pytest.approx(0.9)


def test_a_token_in_pieces_has_the_probability_of_all_its_pieces() -> None:
    pieces = ["<loc", "0100", ">", "<loc0200>", "<loc0300>", "<loc0400>"]
    (found,) = parse_sequence(pieces, [math.log(0.5), math.log(0.25), math.log(0.5), 0.0, 0.0, 0.0])
    assert found.box_score == pytest.approx((1 / 16) ** 0.25)


@pytest.mark.parametrize(("logprob", "score"), [(math.nan, 0.0), (-math.inf, 0.0), (1.0, 1.0), (math.inf, 1.0)])
def test_impossible_log_probabilities_give_scores_in_range(logprob: float, score: float) -> None:
    (found,) = parse_sequence([BOX], [logprob])
    assert found.box_score == score


def test_tokens_and_logprobs_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="2 tokens but 1 logprobs"):
        parse_sequence(["a", "b"], [0.0])


def test_writer_writes_the_published_forms() -> None:
    wheel = ParsedObject("wheel", (1, 2, 3, 4), CODES, 1.0, 1.0)
    box = "<loc0001><loc0002><loc0003><loc0004>"
    assert "".join(write_tokens([wheel], Form.SPACED)) == f"{box} {MASK} wheel"
    assert "".join(write_tokens([wheel, wheel], Form.BARE)) == f"{box}{MASK} ; {box}{MASK}"
    assert "".join(write_tokens([wheel], Form.LABELLED)) == f"{box}{MASK} wheel"
