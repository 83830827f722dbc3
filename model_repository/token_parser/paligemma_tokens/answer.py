"""From the tensors of `paligemma` to the tensors of `token_parser`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paligemma_tokens.objects import ParsedObject
from paligemma_tokens.parser import parse_sequence
from paligemma_tokens.vocabulary import CODES_PER_MASK, NO_CODE


class InvalidTokens(ValueError):
    """The input tensors contradict each other; the message says how."""


@dataclass(frozen=True, slots=True)
class ObjectTensors:
    """N objects as tensors; N may be 0.

    Attributes:
        boxes_xyxy: float32[N, 4], x_min, y_min, x_max, y_max in [0, 1].
        codes: int32[N, 16], each in [0, 127], or all -1 for an object without a mask.
        labels: object[N] of UTF-8 bytes.
        scores: float32[N, 2], box score and mask score in [0, 1].
        has_mask: bool[N].
        target: int32[N], the index of the target that each object answers.
    """

    boxes_xyxy: NDArray[np.float32]
    codes: NDArray[np.int32]
    labels: NDArray[np.object_]
    scores: NDArray[np.float32]
    has_mask: NDArray[np.bool_]
    target: NDArray[np.int32]


def parse_answer(
    tokens: Sequence[bytes], logprobs: Sequence[float], sequence: Sequence[int], targets: Sequence[bytes]
) -> list[ParsedObject]:
    """The objects of all sequences of an answer, in the order of the targets.

    Args:
        tokens: UTF-8 texts of T generated tokens.
        logprobs: T log-probabilities.
        sequence: T indices into targets: which sequence a token belongs to.
        targets: P target texts.

    Raises:
        InvalidTokens: lengths differ, or an index in `sequence` points outside `targets`.
    """
    if not len(tokens) == len(logprobs) == len(sequence):
        raise InvalidTokens(
            f"tokens, logprobs and sequence must be equally long, got {len(tokens)}, {len(logprobs)}, {len(sequence)}"
        )
    if any(not 0 <= index < len(targets) for index in sequence):
        raise InvalidTokens(f"sequence must hold indices of the {len(targets)} targets")
    objects: list[ParsedObject] = []
    for index, target in enumerate(targets):
        members = [position for position, owner in enumerate(sequence) if owner == index]
        found = parse_sequence(
            [_text(tokens[position]) for position in members],
            [logprobs[position] for position in members],
            target=_text(target),
        )
        objects += [replace(parsed, target=index) for parsed in found]
    return objects


def to_tensors(objects: Sequence[ParsedObject]) -> ObjectTensors:
    """Objects as tensors, one row for each."""
    no_codes = (NO_CODE,) * CODES_PER_MASK
    count = len(objects)
    return ObjectTensors(
        boxes_xyxy=np.array([parsed.box_xyxy for parsed in objects], np.float32).reshape(count, 4),
        codes=np.array([parsed.codes or no_codes for parsed in objects], np.int32).reshape(count, CODES_PER_MASK),
        labels=np.array([parsed.label.encode() for parsed in objects], np.object_),
        scores=np.array([(parsed.box_score, parsed.mask_score) for parsed in objects], np.float32).reshape(count, 2),
        has_mask=np.array([parsed.codes is not None for parsed in objects], np.bool_),
        target=np.array([parsed.target for parsed in objects], np.int32),
    )


def _text(encoded: bytes) -> str:
    return encoded.decode(errors="replace")
