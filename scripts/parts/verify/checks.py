"""The rows of the table: what was compared, how often it agreed, and the largest difference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from paligemma_engine.requests.request import Answer, TargetAnswer
from paligemma_tokens import to_tensors
from parts.verify.cases import Case
from parts.verify.comparison import (
    Comparison,
    Tolerance,
    Verdict,
    bins_apart,
    boxes_agree,
    first_difference,
    objects_of,
)
from parts.verify.decoder import (
    Codes,
    Decoders,
    Masks,
    decode_with_torch,
    known_shapes,
    mask_iou,
    round_trip_ious,
    sample_codes,
)
from parts.verify.reference import Reference

MASK_TOLERANCE: Final = 1e-3  # of raw masks, which reach from about -1 to 1
LEAST_ROUND_TRIP_IOU: Final = 0.7  # of plain shapes; both mask decoders reach more

PICTURES: Final = "pictures"
TOKENS: Final = "tokens"
CHOICES: Final = "choices"
LOGPROBS: Final = "log-probabilities"
BOXES: Final = "boxes"
MASKS: Final = "masks"
LOAD: Final = "under load"
DECODER: Final = "mask decoder"
DECODER_TORCH: Final = "mask decoder, PyTorch"
ROUND_TRIP: Final = "known shapes"


@dataclass(frozen=True, slots=True)
class Check:
    """One row.

    Attributes:
        name: what was compared.
        unit: what `cases` counts.
        cases: how many were compared.
        agreed: how many of them agreed.
        worst: the largest difference, as text for the table.
        passed: whether enough agreed.
        note: further text.
    """

    name: str
    unit: str
    cases: int
    agreed: int
    worst: str
    passed: bool
    note: str = ""


def check_pictures(reference: Reference, cases: Sequence[Case], answers: Sequence[Answer]) -> Check:
    """Compares each picture as the model saw it, and the size that the server read, with the true picture."""
    seen = {case.picture.name: (case.picture, answer) for case, answer in zip(cases, answers, strict=True)}
    agreed, worst = 0, 0
    for picture, answer in seen.values():
        expected = reference.input_image(picture.upright)
        same_shape = expected.shape == answer.input_image.shape
        apart = int(np.abs(expected.astype(int) - answer.input_image).max()) if same_shape else 255
        worst = max(worst, apart)
        agreed += apart == 0 and answer.original_hw == (picture.upright.height, picture.upright.width)
    return Check(PICTURES, "pictures", len(seen), agreed, f"{worst} of 255", agreed == len(seen))


def check_answers(compared: Sequence[Comparison], decoders: Decoders, tolerance: Tolerance) -> list[Check]:
    """Compares the server's answers with those of `generate`: tokens, choices, log-probabilities, boxes and masks."""
    gaps = [gap for one in compared for gap in one.followed.gaps.tolist()]
    apart = [difference for one in compared for difference in one.logprob_differences()]
    return [
        _check_tokens(compared, tolerance),
        _within(CHOICES, gaps, tolerance.gap, tolerance),
        _within(LOGPROBS, apart, tolerance.logprob, tolerance),
        *_check_objects(compared, decoders, tolerance),
    ]


def check_load(
    cases: Sequence[Case], alone: Sequence[Answer], loaded: Sequence[Answer], clients: int, tolerance: Tolerance
) -> Check:
    """Compares the answers to requests under load with the answers to the same requests alone."""
    differences = [_apart(one, other, tolerance) for one, other in zip(alone, loaded, strict=True)]
    agreed = sum(difference is None for difference in differences)
    wrong = [case.name for case, difference in zip(cases, differences, strict=True) if difference is not None]
    worst = next((difference for difference in differences if difference is not None), "-")
    note = f"{clients} at once" + (f"; such as {wrong[0]}" if wrong else "")
    return _check(LOAD, "requests", len(differences), agreed, worst, tolerance, note)


def check_decoder(decoders: Decoders, decode: Callable[[Codes], Masks], compared: Sequence[Comparison]) -> list[Check]:
    """Checks Triton's mask_decoder with the answers' codes, codes of known shapes, and random ones."""
    found = [found for one in compared for found in objects_of(one.served) if found.codes is not None]
    codes = sample_codes(found, decoders.vae.encode(known_shapes()))
    served = decode(codes)
    apart = np.abs(served - decoders.vae.decode(codes)).max(axis=(1, 2)).tolist()
    with_mask = (codes >= 0).all(axis=1)
    torch_apart = (
        np.abs(served[with_mask] - decode_with_torch(decoders.arrays, codes[with_mask])).max(axis=(1, 2)).tolist()
    )
    ious = round_trip_ious(decoders.vae, decode)
    alike = sum(iou >= LEAST_ROUND_TRIP_IOU for iou in ious)
    return [
        _all_within(DECODER, "masks", apart, MASK_TOLERANCE),
        _all_within(DECODER_TORCH, "masks", torch_apart, MASK_TOLERANCE),
        Check(ROUND_TRIP, "masks", len(ious), alike, f"IoU {min(ious):.3f}", alike == len(ious)),
    ]


def _check_tokens(compared: Sequence[Comparison], tolerance: Tolerance) -> Check:
    """Compares the server's tokens with those of `generate`."""
    counts = {verdict: sum(one.verdict is verdict for one in compared) for verdict in Verdict}
    agreed = len(compared) - counts[Verdict.DIFFERENT]
    notes = []
    if malformed := counts[Verdict.MALFORMED]:
        notes.append(f"{malformed} compared up to where the free answer is malformed")
    if rounding := counts[Verdict.ROUNDING]:
        notes.append(f"{rounding} differ where rounding decides")
    first = min((one.common for one in compared if one.verdict is Verdict.DIFFERENT), default=None)
    worst = "-" if first is None else f"token {first + 1}"
    return _check(TOKENS, "answers", len(compared), agreed, worst, tolerance, "; ".join(notes))


def _check_objects(compared: Sequence[Comparison], decoders: Decoders, tolerance: Tolerance) -> list[Check]:
    """Compares the served boxes and masks with those of `generate`, for its well-formed answers."""
    comparable = [one for one in compared if one.expected.malformed_at is None and _must_agree(one, tolerance)]
    pairs = [pair for one in comparable for pair in one.object_pairs()]
    both = [(served, expected) for served, expected in pairs if served is not None and expected is not None]
    apart = [bins_apart(served, expected) for served, expected in both]
    alike = sum(boxes_agree(served, expected, tolerance) for served, expected in both)
    notes = []
    if tolerance.box_bins and both:
        notes.append(f"{sum(bins <= tolerance.box_bins for bins in apart)} within {tolerance.box_bins} bins")
    if lost := len(pairs) - len(both):
        notes.append(f"{lost} in one of the answers only")
    worst = f"{max(apart)} bins" if apart else "-"
    boxes = _check(BOXES, "objects", len(pairs), alike, worst, tolerance, "; ".join(notes))
    masked = [pair for pair in both if pair[0].codes is not None or pair[1].codes is not None]
    decoded = [decoders.vae.decode(to_tensors([one[side] for one in masked]).codes) > 0 for side in range(2)]
    ious = [mask_iou(served, expected) for served, expected in zip(*decoded, strict=True)]
    alike = sum(iou >= tolerance.mask_iou for iou in ious)
    worst = f"IoU {min(ious):.3f}" if ious else "-"
    return [boxes, _check(MASKS, "objects", len(ious), alike, worst, tolerance)]


def _must_agree(one: Comparison, tolerance: Tolerance) -> bool:
    """Whether boxes must agree: if no bin may differ, answers that differ by rounding are compared by tokens only."""
    return tolerance.box_bins > 0 or one.verdict is not Verdict.ROUNDING


def _apart(alone: Answer, loaded: Answer, tolerance: Tolerance) -> str | None:
    """Describes the difference between two answers of the server; None if there is none beyond the tolerance."""
    if len(alone.targets) != len(loaded.targets) or not np.array_equal(alone.input_image, loaded.input_image):
        return "another picture"
    different = (
        _targets_apart(one, other, tolerance) for one, other in zip(alone.targets, loaded.targets, strict=True)
    )
    return next((difference for difference in different if difference is not None), None)


def _targets_apart(alone: TargetAnswer, loaded: TargetAnswer, tolerance: Tolerance) -> str | None:
    position = first_difference(alone, loaded)
    if position is None:
        apart = [abs(one.logprob - other.logprob) for one, other in zip(alone.tokens, loaded.tokens, strict=True)]
        worst = max(apart, default=0.0)
        return None if worst <= tolerance.logprob else f"{worst:.3f} nats"
    # Both chose the likeliest token there; if rounding decided, the two tokens are nearly equally likely.
    chosen = [answer.tokens[position].logprob for answer in (alone, loaded) if position < len(answer.tokens)]
    objects, others = objects_of(alone), objects_of(loaded)
    is_near = tolerance.box_bins == 0 or (
        len(objects) == len(others) and all(boxes_agree(*pair, tolerance) for pair in zip(objects, others, strict=True))
    )
    is_rounding = len(chosen) == len((alone, loaded)) and abs(chosen[0] - chosen[1]) <= tolerance.gap
    return None if is_rounding and is_near else f"token {position + 1}"


def _within(name: str, apart: Sequence[float], limit: float, tolerance: Tolerance) -> Check:
    agreed = sum(each <= limit for each in apart)
    return _check(name, "tokens", len(apart), agreed, f"{max(apart, default=0.0):.2g} nats", tolerance)


def _all_within(name: str, unit: str, apart: Sequence[float], limit: float) -> Check:
    agreed = sum(each <= limit for each in apart)
    return Check(name, unit, len(apart), agreed, f"{max(apart, default=0.0):.1g}", agreed == len(apart))


def _check(name: str, unit: str, cases: int, agreed: int, worst: str, tolerance: Tolerance, note: str = "") -> Check:
    return Check(name, unit, cases, agreed, worst, agreed >= tolerance.share * cases, note)
