"""What the scheduler needs of a model: the `Runner` protocol."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from paligemma_engine.requests.prepared import PreparedImage, PreparedPrompt


@dataclass(frozen=True, slots=True)
class PickedToken:
    """A token that the model chose, and its log-probability."""

    token_id: int
    logprob: float


class StartedStep(Protocol):
    """A prefill or a decode step that is running or has run."""

    def read(self) -> dict[int, PickedToken]:
        """Returns the next token of each slot of the step. An error is fatal to all sequences."""


class StartedVision(Protocol):
    """The vision tower's work on the pictures of a prefill: running beside the other steps, or still to be done."""

    def is_ready(self) -> bool:
        """Whether the prefill would not wait for another thread."""

    def features_of(self, images: Sequence[PreparedImage]) -> Sequence[Any]:
        """Returns the features of some of its pictures, for the runner; waits for them, or computes them now."""


class DeviceLost(Exception):
    """The device can run no more steps."""


class Runner(Protocol):
    """The model's interface to the scheduler."""

    @property
    def slots(self) -> int:
        """Number of sequences that can run at once."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a sequence."""

    @property
    def steps_ahead(self) -> int:
        """Number of prefills and decode steps that may be unread when the next one is started."""

    @property
    def prefill_rows(self) -> int:
        """Number of prompts that a prefill takes at most."""

    @property
    def looks_ahead(self) -> bool:
        """Whether the vision tower runs beside the steps, so that it should be started before the prefill's turn."""

    def start_vision(self, images: Sequence[PreparedImage], *, running: int) -> StartedVision:
        """Starts the vision tower on the pictures of the next prefill, if it looks ahead.

        `running` sequences decode meanwhile. An error is fatal to all sequences.
        """

    def prefill(self, prompts: Mapping[int, PreparedPrompt], vision: StartedVision, *, running: int) -> StartedStep:
        """Starts a prefill of these prompts, by free slot, while so many sequences run.

        `vision` was started for their pictures.

        An error leaves the slots free; DeviceLost is fatal to all sequences.
        """

    def decode(self, slots: Collection[int]) -> StartedStep:
        """Starts a decode step for these occupied slots. An error is fatal to all sequences."""
