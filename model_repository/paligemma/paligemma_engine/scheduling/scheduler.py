"""Continuous batching: assigns sequences to slots, step by step.

Pure Python: the model is behind the `Runner` protocol, so slots, admission and endings are tested without it.

    run_once:  end the cancelled and overdue  ->  prefill waiting sequences into free slots  ->  one decode step for all

The prefills of a round have a time budget. It bounds how long running sequences stall, and the heartbeat is written
between two slow prefills.

The vision tower can run beside the steps. The next group of sequences has its slots and waits for its pictures, while
running ones decode:

    vision tower    pictures of B          pictures of C
    engine          decode ...  prefill B  decode ...  prefill C  decode ...

On a GPU a step (prefill or decode step) is read only after the next one was started, so that the device never waits for
the host:

    start 1    start 2, read 1    start 3, read 2    ...      tokens of sequences that have ended are dropped
"""

import heapq
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from paligemma_engine.errors import InternalError
from paligemma_engine.metrics import DECODE_SECONDS, DECODE_STEPS, DECODE_TOKENS, PREFILL_SECONDS, EngineMetrics
from paligemma_engine.requests.sequence import FinishReason, Sequence, Status
from paligemma_engine.scheduling.protocol import DeviceLost, PickedToken, Runner, StartedStep, StartedVision

_log = logging.getLogger(__name__)

# Time limit for the prefills of a round; the first one may exceed it. Running sequences stall for at most this long
# plus one prefill. The demo model does about 30 prefills in it on one core.
PREFILL_BUDGET_S: Final = 0.25

# While many sequences run, a prefill waits a moment for more prompts: one for each so many that run.
RUNNING_FOR_EACH_PROMPT: Final = 4
HOLD_S: Final = 0.05  # a few decode steps of a small model
MAX_PADDING: Final = 16  # tokens by which prompts of one prefill may differ in length


@dataclass(frozen=True, slots=True)
class _Unread:
    """A step that was started and not yet read.

    Attributes:
        step: the started step.
        sequences: the sequences that it decodes, by slot.
        start_s: time that starting it took, in seconds.
        is_prefill: whether it is a prefill.
    """

    step: StartedStep
    sequences: dict[int, Sequence]
    start_s: float
    is_prefill: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """The sequences of one prefill, by the slot that each will have, and the vision tower's work on their pictures."""

    slots: dict[int, Sequence]
    vision: StartedVision


class Scheduler:
    """Takes sequences from waiting to running to finished. Not thread-safe: the engine thread owns it."""

    def __init__(self, runner: Runner, metrics: EngineMetrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._metrics = metrics
        self._clock = clock
        self._waiting: deque[Sequence] = deque()
        self._next: _Group | None = None
        self._running: dict[int, Sequence] = {}
        self._unread: deque[_Unread] = deque()
        self._free = list(range(runner.slots))  # a heap: using low slots first keeps the row bucket small
        self._finished: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        """Whether another `run_once` would have work."""
        return bool(self._waiting or self._next or self._running)

    @property
    def running(self) -> Collection[Sequence]:
        """The sequences that decode."""
        return self._running.values()

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Adds sequences to those that wait for a slot, in order."""
        now = self._clock()
        for sequence in sequences:
            sequence.waiting_since = now
            self._waiting.append(sequence)

    def run_once(self) -> list[Sequence]:
        """Runs one round; returns the sequences that ended in it.

        Raises:
            DeviceLost: from a prefill.
            Exception: whatever a decode step raised; the state of all running sequences is then unknown.
        """
        self._end_unwanted()
        self._admit()
        if self._running:
            self._step()
        if not self._running:
            self._unread.clear()  # their sequences have all ended
        finished, self._finished = self._finished, []
        return finished

    def _end_unwanted(self) -> None:
        coming = self._next.slots.values() if self._next else ()
        for sequence in [*self._running.values(), *coming, *self._waiting]:
            self._end_if_unwanted(sequence)
        if any(sequence.status is Status.FINISHED for sequence in self._waiting):
            self._waiting = deque(sequence for sequence in self._waiting if sequence.status is Status.WAITING)

    def _end_if_unwanted(self, sequence: Sequence) -> None:
        if sequence.status is Status.FINISHED:
            return
        if sequence.cancelled:
            self._finish(sequence, FinishReason.CANCELLED)
        elif self._clock() >= sequence.deadline:
            self._finish(sequence, FinishReason.DEADLINE)

    def _admit(self) -> None:
        started = self._clock()
        self._look_ahead()
        while self._next and (self._next.vision.is_ready() or not self._running):
            group, self._next = self._next, None
            slots = self._wanted(group)
            if self._runner.looks_ahead:
                self._look_ahead(in_hand=len(slots))  # so that the vision tower has work during this prefill
            if slots:
                self._prefill(slots, group.vision)
            if self._clock() - started >= PREFILL_BUDGET_S:
                return
            self._look_ahead()

    def _look_ahead(self, *, in_hand: int = 0) -> None:
        """Gives slots to the sequences of the next prefill, and starts the vision tower on their pictures.

        `in_hand` sequences will run soon: their prefill is next.
        """
        running = len(self._running) + in_hand
        if self._next or not self._waiting or not self._free or self._is_held(running):
            return
        slots = {heapq.heappop(self._free): sequence for sequence in self._next_sequences()}
        vision = self._runner.start_vision([sequence.prompt.image for sequence in slots.values()], running=running)
        self._next = _Group(slots, vision)

    def _is_held(self, running: int) -> bool:
        """Whether the next prefill waits for more prompts, since it takes several of them faster than one by one."""
        first = self._waiting[0]
        if self._clock() - first.waiting_since >= HOLD_S:
            return False
        worthwhile = min(self._runner.prefill_rows, len(self._free), running // RUNNING_FOR_EACH_PROMPT)
        return len(self._waiting) < worthwhile and all(_go_together(first, other) for other in self._waiting)

    def _next_sequences(self) -> list[Sequence]:
        """Takes the next ones for one prefill from those that wait."""
        taken = [self._waiting.popleft()]
        most = min(self._runner.prefill_rows, len(self._free))
        while self._waiting and len(taken) < most and _go_together(taken[0], self._waiting[0]):
            taken.append(self._waiting.popleft())
        return taken

    def _prefill(self, slots: dict[int, Sequence], vision: StartedVision) -> None:
        started = self._clock()
        try:
            prompts = {slot: each.prompt for slot, each in slots.items()}
            step = self._runner.prefill(prompts, vision, running=len(self._running))
        except DeviceLost:
            raise
        except Exception as error:
            _log.exception("prefill failed")
            failure = InternalError(f"the model failed on this request ({type(error).__name__})")
        else:
            for slot, sequence in slots.items():
                sequence.slot, sequence.status = slot, Status.RUNNING
            self._running |= slots
            self._follow(_Unread(step, slots, self._clock() - started, is_prefill=True))
            return
        self._try_alone(slots, failure)

    def _wanted(self, group: _Group) -> dict[int, Sequence]:
        """Ends those that were cancelled or are overdue by now, and frees their slots; returns the others."""
        for sequence in group.slots.values():
            self._end_if_unwanted(sequence)
        wanted = {slot: each for slot, each in group.slots.items() if each.status is Status.WAITING}
        for slot in group.slots.keys() - wanted:
            heapq.heappush(self._free, slot)
        return wanted

    def _try_alone(self, failed: dict[int, Sequence], failure: InternalError) -> None:
        """After a prefill that failed: one of several sequences may be the cause, so each is tried again alone.

        They come next, or after the group that has its slots already.
        """
        for slot in failed:
            heapq.heappush(self._free, slot)
        sequences = list(failed.values())
        if len(sequences) == 1:
            sequences[0].error = failure
            self._finish(sequences[0], FinishReason.ERROR)
            return
        for sequence in sequences:
            sequence.prefills_alone = True
        self._waiting.extendleft(reversed(sequences))

    def _step(self) -> None:
        started = self._clock()
        step = self._runner.decode(self._running.keys())
        self._follow(_Unread(step, dict(self._running), self._clock() - started, is_prefill=False))

    def _follow(self, newest: _Unread) -> None:
        """Reads steps until at most `steps_ahead` are unread."""
        self._unread.append(newest)
        if len(self._unread) > self._runner.steps_ahead:
            self._read(self._unread.popleft())

    def _read(self, unread: _Unread) -> None:
        started = self._clock()
        picked = unread.step.read()
        now = self._clock()
        seconds = unread.start_s + now - started
        running = {slot: sequence for slot, sequence in unread.sequences.items() if sequence.status is Status.RUNNING}
        if unread.is_prefill:
            self._metrics.observe(PREFILL_SECONDS, seconds)
            for sequence in running.values():
                sequence.first_token_at = now
        else:
            self._metrics.count(DECODE_STEPS)
            self._metrics.count(DECODE_SECONDS, seconds)
            self._metrics.count(DECODE_TOKENS, len(running))
        for slot, sequence in running.items():
            self._append(sequence, picked[slot])

    def _append(self, sequence: Sequence, picked: PickedToken) -> None:
        if not math.isfinite(picked.logprob):
            _log.error("the model computed a log-probability of %s", picked.logprob)
            sequence.error = InternalError(
                "the model computed a value that is not finite for this request; if that happens again, the operator "
                "should set DTYPE=float32"
            )
            self._finish(sequence, FinishReason.ERROR)
            return
        if picked.token_id in self._runner.eos_ids:
            self._finish(sequence, FinishReason.EOS)
            return
        sequence.token_ids.append(picked.token_id)
        sequence.logprobs.append(picked.logprob)
        if sequence.repeats is not None and sequence.repeats.is_repeat(picked.token_id):
            self._finish(sequence, FinishReason.REPEAT)
        elif len(sequence.token_ids) >= sequence.max_new_tokens:
            self._finish(sequence, FinishReason.LENGTH)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        if sequence.slot is not None:
            del self._running[sequence.slot]
            heapq.heappush(self._free, sequence.slot)
            sequence.slot = None
        sequence.status, sequence.finish_reason = Status.FINISHED, reason
        self._finished.append(sequence)


def _go_together(one: Sequence, other: Sequence) -> bool:
    """Whether one prefill may take both: neither is tried alone, and they are about as long, so padding is little."""
    difference = abs(len(one.prompt.input_ids) - len(other.prompt.input_ids))
    return difference <= MAX_PADDING and not one.prefills_alone and not other.prefills_alone
