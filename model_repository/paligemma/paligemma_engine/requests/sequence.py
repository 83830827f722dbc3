"""One target being decoded: the state that the scheduler moves on."""

import enum
import math
from dataclasses import dataclass, field

from paligemma_engine.answers.repeats import RepeatDetector
from paligemma_engine.requests.prepared import PreparedPrompt


class Status(enum.Enum):
    """Where a sequence is in its life."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


class FinishReason(enum.Enum):
    """Why a sequence ended; the values are what clients see."""

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
        prompt: what the prefill is given.
        max_new_tokens: when to stop at the latest.
        deadline: on the scheduler's clock, in seconds.
        repeats: sees that the model started to repeat an object; None where that does not end the sequence.
        cancelled: set from any thread; the scheduler acts on it before its next step.
        status: where it is in its life.
        slot: the row it holds while it runs.
        first_token_at: when its prefill was done, on the scheduler's clock.
        token_ids: what was generated, the end token left out.
        logprobs: one for each token.
        finish_reason: why it ended.
        error: what failed, where finish_reason is ERROR.
    """

    prompt: PreparedPrompt
    max_new_tokens: int
    deadline: float = math.inf
    repeats: RepeatDetector | None = None
    cancelled: bool = False
    status: Status = Status.WAITING
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
