"""A runner whose tokens can be computed on paper: the strict stand-in for a model in the scheduler's tests.

A prompt `[start, stride, count, ...]` is answered with `start, start + stride, start + 2 * stride, ...`, and the end
token after `count` of them. Each slot keeps its own sum, so a mixed-up row gives a wrong number, and a decode of an
empty slot is an error. So is a step that is read sooner or later than it says.
"""

import math
from collections import abc
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from paligemma_engine.answers.vocabulary import Task
from paligemma_engine.requests.prepared import PreparedImage, PreparedPrompt, TargetPrompt
from paligemma_engine.requests.sequence import Sequence
from paligemma_engine.scheduling.protocol import PickedToken, StartedVision
from paligemma_engine.scheduling.scheduler import Scheduler

EOS_ID = 0
POISON = -1  # as a start: the prefill raises; as a stride: the decode step does
NOT_FINITE = -2  # as a stride: the decode step computes log-probabilities that are no numbers


@dataclass(eq=False)
class ArithmeticStep:
    runner: "ArithmeticRunner"
    number: int
    picked: dict[int, PickedToken]

    def read(self) -> dict[int, PickedToken]:
        assert self.runner.last_read < self.number == self.runner.started - self.runner.steps_ahead
        self.runner.last_read = self.number
        return self.picked


@dataclass(eq=False)
class ArithmeticVision:
    images: abc.Sequence[PreparedImage]
    done: bool

    def is_ready(self) -> bool:
        return self.done

    def features_of(self, images: abc.Sequence[PreparedImage]) -> abc.Sequence[None]:
        assert all(any(image is started for started in self.images) for image in images)
        self.done = True
        return [None] * len(images)


class ArithmeticRunner:
    """`vision_is_done`: False for a vision tower that needs until a prefill waits for it, or a test says it is done."""

    vision_is_done = True

    def __init__(self, slots: int, steps_ahead: int = 0, prefill_rows: int = 1) -> None:
        self.slots = slots
        self.prefill_rows = prefill_rows
        self.steps_ahead = steps_ahead
        self.started = 0  # prefills and decode steps
        self.last_read = 0
        self.eos_ids = frozenset({EOS_ID})
        self.rows: dict[int, tuple[int, int, int]] = {}
        self.vision: list[ArithmeticVision] = []
        self.looks_ahead = True
        self.told_running: list[int] = []
        self.prefilled: list[frozenset[int]] = []
        self.decoded: list[frozenset[int]] = []

    def start_vision(self, images: abc.Sequence[PreparedImage], *, running: int) -> ArithmeticVision:
        self.told_running.append(running)
        assert all(vision.done for vision in self.vision), "one group of pictures at a time"
        self.vision.append(ArithmeticVision(images, self.vision_is_done))
        return self.vision[-1]

    def prefill(self, prompts: Mapping[int, PreparedPrompt], vision: StartedVision, *, running: int) -> ArithmeticStep:
        self.told_running.append(running)
        assert 1 <= len(prompts) <= self.prefill_rows
        vision.features_of([prompt.image for prompt in prompts.values()])
        assert all(0 <= slot < self.slots for slot in prompts)
        if any(prompt.input_ids[0] == POISON for prompt in prompts.values()):
            raise ValueError("poisoned")
        self.prefilled.append(frozenset(prompts))
        picked = {}
        for slot, prompt in prompts.items():
            start, stride, count = prompt.input_ids[:3]
            self.rows[slot] = (start, stride, count - 1)
            picked[slot] = self._picked(start if count else EOS_ID)
        return self._start(picked)

    def decode(self, slots: Collection[int]) -> ArithmeticStep:
        self.decoded.append(frozenset(slots))
        picked = {}
        for slot in slots:
            number, stride, left = self.rows[slot]
            if stride == POISON:
                raise RuntimeError("the device is lost")
            if stride == NOT_FINITE:
                picked[slot] = PickedToken(EOS_ID, math.nan)
                continue
            self.rows[slot] = (number + stride, stride, left - 1)
            picked[slot] = self._picked(number + stride if left > 0 else EOS_ID)
        return self._start(picked)

    def _start(self, picked: dict[int, PickedToken]) -> ArithmeticStep:
        self.started += 1
        return ArithmeticStep(self, self.started, picked)

    def _picked(self, token_id: int) -> PickedToken:
        return PickedToken(token_id, -token_id / 1000)


def sequence(start: int, stride: int, count: int, *, max_new_tokens: int = 100, **fields: object) -> Sequence:
    """A sequence that asks the runner for `count` numbers."""
    image = PreparedImage(np.zeros((1, 1, 3), np.uint8), (1, 1), b"", np.zeros((3, 1, 1), np.float32))
    prompt = PreparedPrompt(image, [start, stride, count], TargetPrompt(Task.OTHER, "", ""))
    return Sequence(prompt=prompt, max_new_tokens=max_new_tokens, **fields)  # type: ignore[arg-type]


class Clock:
    """Moved by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_to_the_end(scheduler: Scheduler) -> list[Sequence]:
    finished = []
    while scheduler.has_work:
        finished += scheduler.run_once()
    return finished
