"""A request inside the engine, and how its sequences become one outcome."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from paligemma_engine.answers.detokenizer import token_texts
from paligemma_engine.answers.vocabulary import LOCS_PER_BOX, TokenClass, Vocabulary
from paligemma_engine.errors import Cancelled, DeadlineExceeded, EngineError, InternalError, Stopping
from paligemma_engine.requests.prepared import PreparedImage
from paligemma_engine.requests.request import Answer, Request, TargetAnswer, Token
from paligemma_engine.requests.sequence import FinishReason, Sequence, Status

MAX_FILE_BYTES: Final = 1 << 30  # total of the encoded images that wait for decoding

Outcome = Answer | EngineError
OnOutcome = Callable[[Outcome], None]


@dataclass(eq=False, slots=True, kw_only=True)
class Ticket:
    """A submitted request.

    Attributes:
        request: as received; its encoded image is dropped after preparation, so that waiting requests hold no files.
        on_outcome: called once, from the engine's sender thread.
        accepted_at: on the engine's clock, in seconds.
        deadline: on the engine's clock; infinity for none.
        cancelled: whether the caller has left.
        answered: whether on_outcome has been called.
        image: the prepared picture; None before preparation.
        sequences: one for each target; empty before preparation.
    """

    request: Request
    on_outcome: OnOutcome
    accepted_at: float
    deadline: float = math.inf
    cancelled: bool = False
    answered: bool = False
    image: PreparedImage | None = None
    sequences: list[Sequence] = field(default_factory=list)

    @classmethod
    def open(cls, request: Request, on_outcome: OnOutcome) -> Self:
        """Returns a ticket whose time runs from now."""
        now = time.monotonic()
        deadline = math.inf if request.timeout_s is None else now + request.timeout_s
        return cls(request=request, on_outcome=on_outcome, accepted_at=now, deadline=deadline)

    @property
    def is_finished(self) -> bool:
        """Whether all of its sequences have ended."""
        return all(sequence.status is Status.FINISHED for sequence in self.sequences)

    def drop_file(self) -> None:
        """Drops the encoded image."""
        self.request = replace(self.request, image=b"")

    def box_count(self, vocabulary: Vocabulary) -> int:
        """Returns the number of boxes in its sequences."""
        token_ids = [token_id for sequence in self.sequences for token_id in sequence.token_ids]
        return sum(vocabulary.class_of(token_id) is TokenClass.LOC for token_id in token_ids) // LOCS_PER_BOX

    def cancel(self) -> None:
        """Marks the ticket and its sequences as cancelled; the engine acts on it in its next round."""
        self.cancelled = True
        for sequence in self.sequences:
            sequence.cancelled = True


def has_room_for_files(tickets: Iterable[Ticket]) -> bool:
    """Whether another encoded image may be held beside those of these requests."""
    return sum(len(ticket.request.image) for ticket in tickets) <= MAX_FILE_BYTES


def outcome_of(ticket: Ticket, tokenizer: Any) -> Outcome:
    """Returns the outcome of a ticket whose sequences have ended.

    The outcome is an error only if every target failed; otherwise the failed ones are marked in the answer.
    """
    if ticket.image is None or not any(sequence.is_answered for sequence in ticket.sequences):
        return _failure(ticket)
    return Answer(
        targets=tuple(_target_answer(sequence, tokenizer) for sequence in ticket.sequences),
        input_image=ticket.image.input_image,
        original_hw=ticket.image.original_hw,
    )


def _failure(ticket: Ticket) -> EngineError:
    reasons = {sequence.finish_reason for sequence in ticket.sequences}
    if FinishReason.CANCELLED in reasons:
        return cancelled_error()
    if FinishReason.DEADLINE in reasons:
        return deadline_error()
    for sequence in ticket.sequences:
        if isinstance(sequence.error, EngineError):
            return sequence.error
    return InternalError("the request failed; the server's log has the cause")


def cancelled_error() -> Cancelled:
    """Returns the error for a request whose caller has left."""
    return Cancelled("the caller went away")


def deadline_error() -> DeadlineExceeded:
    """Returns the error for a request whose deadline has passed."""
    return DeadlineExceeded("the request's time was up before it was answered; allow more time or ask for less")


def stopping_error() -> Stopping:
    """Returns the error for a request that is unanswered, or arrives, while the server stops."""
    return Stopping("the server is stopping; ask another one, or try again later")


def _target_answer(sequence: Sequence, tokenizer: Any) -> TargetAnswer:
    texts = token_texts(tokenizer, sequence.token_ids)
    reason = sequence.finish_reason or FinishReason.ERROR
    return TargetAnswer(
        target=sequence.prompt.asked.target,
        tokens=tuple(Token(*pair) for pair in zip(texts, sequence.logprobs, strict=True)),
        finish_reason=reason.value,
    )
