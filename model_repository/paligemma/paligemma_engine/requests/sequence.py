"""One target being decoded, with the state that the scheduler changes."""

import enum
import math
from dataclasses import dataclass, field

from paligemma_engine.answers.repeats import RepeatDetector
from paligemma_engine.requests.prepared import PreparedPrompt


class Status(enum.Enum):
    """The state of a sequence."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


class FinishReason(enum.Enum):
    """Why a sequence ended; clients see these values."""

    EOS = "eos"
    LENGTH = "length"
    REPEAT = "repeat"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    ERROR = "error"


ANSWERED = frozenset({FinishReason.EOS, FinishReason.LENGTH, FinishReason.REPEAT})


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """One target being decoded.

    Attributes:
        prompt: the input of its prefill.
        max_new_tokens: the sequence ends after so many tokens at the latest.
        deadline: on the scheduler's clock, in seconds.
        repeats: detects repeated objects; None if a repeat does not end the sequence.
        cancelled: set from any thread; the scheduler acts on it before its next step.
        status: waiting, running or finished.
        waiting_since: when the scheduler got it, on the scheduler's clock.
        prefills_alone: whether a prefill with others has failed; it is then tried alone.
        slot: its row in the KV cache while it runs.
        first_token_at: the end of its prefill, on the scheduler's clock.
        token_ids: the generated tokens without the end token.
        logprobs: the log-probability of each token.
        finish_reason: why it ended.
        error: the failure, if finish_reason is ERROR.
    """

    prompt: PreparedPrompt
    max_new_tokens: int
    deadline: float = math.inf
    repeats: RepeatDetector | None = None
    cancelled: bool = False
    status: Status = Status.WAITING
    waiting_since: float = 0.0
    prefills_alone: bool = False
    slot: int | None = None
    first_token_at: float | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    @property
    def is_answered(self) -> bool:
        """Whether it ended by itself."""
        return self.finish_reason in ANSWERED
