"""Compares the server's answer to one target with the one of `generate`."""

import enum
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from paligemma_engine.preparation.prompts import split_prompt
from paligemma_engine.requests.prepared import TargetPrompt
from paligemma_engine.requests.request import Answer, TargetAnswer
from paligemma_engine.requests.sequence import ANSWERED, FinishReason
from paligemma_tokens import ParsedObject, parse_sequence
from parts.evaluate.protocol import box_iou
from parts.verify.cases import Case
from parts.verify.expected import Expected, common_length, expect, served_ids
from parts.verify.reference import Followed, Reference


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The largest differences between right answers.

    Attributes:
        gap: by how many nats another token may be likelier than the chosen one; rounding decides between such tokens.
        logprob: largest difference of a token's log-probabilities, in nats.
        box_bins: largest distance between edges of two boxes, in bins of 1/1024 of a side.
        box_iou: least IoU of two boxes with a larger distance, because uncertain edges move by more.
        mask_iou: least IoU of two masks.
        share: least share of the cases that must agree.
    """

    gap: float
    logprob: float
    box_bins: int
    box_iou: float
    mask_iou: float
    share: float


EXACT: Final = Tolerance(gap=1e-3, logprob=1e-3, box_bins=0, box_iou=1.0, mask_iou=0.999, share=1.0)
# bfloat16 has 8 significant bits: a logit between 16 and 32 moves in steps of 0.125.
ROUNDED: Final = Tolerance(gap=0.5, logprob=0.5, box_bins=2, box_iou=0.9, mask_iou=0.9, share=0.95)


class Verdict(enum.Enum):
    """The result of comparing two answers."""

    EQUAL = "the same tokens"
    MALFORMED = "the same tokens, up to where the free answer is malformed"
    ROUNDING = "another token where both are as likely"
    DIFFERENT = "other tokens"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A target's two answers.

    Attributes:
        case: the request.
        asked: the target.
        served: the server's answer.
        expected: the answer that it must be.
        followed: what `generate` computes for the served tokens.
        common: number of equal leading tokens.
        verdict: the result.
    """

    case: Case
    asked: TargetPrompt
    served: TargetAnswer
    expected: Expected
    followed: Followed
    common: int
    verdict: Verdict

    @classmethod
    def of(cls, reference: Reference, case: Case, served: TargetAnswer, asked: TargetPrompt, job: "Job") -> Self:
        """Has `generate` answer the same target, and follow the server's answer if that differs."""
        upright = case.picture.upright
        generated = reference.generate(upright, asked, job.max_new_tokens)
        expected = expect(reference, generated, asked, grammar=job.grammar)
        token_ids = served_ids(reference, served, expected)
        followed = expected.followed
        if token_ids != expected.token_ids:
            followed = reference.follow(upright, asked, token_ids)
        common = common_length([token.text for token in served.tokens], expected.texts)
        verdict = _verdict(served, expected, followed, common, job)
        return cls(case, asked, served, expected, followed, common, verdict)

    def logprob_differences(self) -> list[float]:
        """Differences between the server's and `generate`'s log-probability of each served token, in nats."""
        served = np.array([token.logprob for token in self.served.tokens], np.float32)
        count = min(len(served), len(self.followed.logprobs))
        apart: list[float] = np.abs(served[:count] - self.followed.logprobs[:count]).tolist()
        return apart

    def object_pairs(self) -> list[tuple[ParsedObject | None, ParsedObject | None]]:
        """Pairs the objects of the served and the expected answer in order; None if one has fewer."""
        return list(itertools.zip_longest(objects_of(self.served), _objects(self.expected.texts)))


@dataclass(frozen=True, slots=True)
class Job:
    """Settings of the comparison: the bound on tokens, whether the grammar is on, the tolerance."""

    max_new_tokens: int
    grammar: bool
    tolerance: Tolerance


def compare(reference: Reference, cases: Sequence[Case], answers: Sequence[Answer], job: Job) -> Iterator[Comparison]:
    """Compares each target of each case; a target that the server left out counts as an answer without tokens."""
    for case, answer in zip(cases, answers, strict=True):
        for index, asked in enumerate(split_prompt(case.prompt)):
            served = answer.targets[index] if index < len(answer.targets) else TargetAnswer(asked.target, (), "missing")
            yield Comparison.of(reference, case, served, asked, job)


def objects_of(answer: TargetAnswer) -> list[ParsedObject]:
    """The objects in a served answer."""
    return _objects([token.text for token in answer.tokens])


def bins_apart(first: ParsedObject, second: ParsedObject) -> int:
    """The largest distance between two boxes' edges, in bins."""
    edges = zip(first.loc_bins_yxyx, second.loc_bins_yxyx, strict=True)
    return max(abs(one - other) for one, other in edges)


def boxes_agree(first: ParsedObject, second: ParsedObject, tolerance: Tolerance) -> bool:
    """Whether two boxes are within the tolerance."""
    near = bins_apart(first, second) <= tolerance.box_bins
    return near or box_iou(first.box_xyxy, second.box_xyxy) >= tolerance.box_iou


def first_difference(first: TargetAnswer, second: TargetAnswer) -> int | None:
    """Index of the first token that differs, or of the end; None if tokens and ends are the same."""
    texts, others = ([token.text for token in answer.tokens] for answer in (first, second))
    if texts == others and first.finish_reason == second.finish_reason:
        return None
    return common_length(texts, others)


def _objects(texts: Sequence[str]) -> list[ParsedObject]:
    return parse_sequence(texts, [0.0] * len(texts))


def _verdict(served: TargetAnswer, expected: Expected, followed: Followed, common: int, job: Job) -> Verdict:
    is_whole = common == len(served.tokens) == len(expected.texts)
    if is_whole and served.finish_reason == expected.finish_reason:
        return Verdict.EQUAL
    is_cut_off = served.finish_reason == FinishReason.LENGTH.value and len(served.tokens) < job.max_new_tokens
    if is_cut_off or served.finish_reason not in {reason.value for reason in ANSWERED}:
        return Verdict.DIFFERENT
    if expected.malformed_at is not None and common >= expected.malformed_at:
        return Verdict.MALFORMED
    # At the first token that differs; that may be the end token, which has no text.
    if common < len(followed.gaps) and followed.gaps[common] <= job.tolerance.gap:
        return Verdict.ROUNDING
    return Verdict.DIFFERENT
