"""Checks that the engine's tokens equal generate's."""

import copy
from dataclasses import dataclass
from typing import Final

import torch

from paligemma_engine.answers.detokenizer import token_texts
from parts.gpu_benchmark.architecture import Architecture, make_model, make_processor
from parts.gpu_benchmark.contenders import Generate, ServedModel
from parts.gpu_benchmark.device_clock import DeviceClock
from parts.gpu_benchmark.work import Work

REQUESTS: Final = 12
SLOTS: Final = 4  # fewer than requests, so that they join and leave a running batch


@dataclass(frozen=True, slots=True)
class Exactness:
    """Number of answers compared, number of equal pairs, and number of different answers among generate's."""

    answers: int
    equal: int
    different_answers: int

    @property
    def all_equal(self) -> bool:
        """Whether all answers were equal."""
        return self.equal == self.answers


def check_tokens(architecture: Architecture, work: Work, *, device: torch.device) -> Exactness:
    """Compares tokens in float32, where both must choose the same: generate one at a time, the engine all at once.

    Head and embedding have different weights here, because a model that repeats one token would hide errors.
    """
    processor = make_processor(architecture)
    model = make_model(architecture, device=device, dtype=torch.float32, tied=False)
    generate = Generate(copy.deepcopy(model), processor)
    served = ServedModel(model, processor, DeviceClock(device), slots=SLOTS)
    requests = work.requests(REQUESTS)
    expected = [token_texts(processor.tokenizer, generate.answer([request])[0]) for request in requests]
    answered = served.answer(requests)
    equal = sum(pair[0] == pair[1] for pair in zip(expected, answered, strict=True))
    return Exactness(len(requests), equal, len({tuple(texts) for texts in expected}))
