"""Copies between host and device: inputs to the device, chosen tokens back.

On a GPU neither waits for running work: copies go through pinned buffers, used in turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import torch

from paligemma_engine.scheduling.protocol import PickedToken


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A prefill or decode step that was started.

    Attributes:
        row_of: the row of the outputs for each slot.
        token_ids: int64[rows], on the host.
        logprobs: float32[rows], on the host.
        arrived: set when both copies have finished; None if they already have.
    """

    row_of: Mapping[int, int]
    token_ids: torch.Tensor
    logprobs: torch.Tensor
    arrived: torch.cuda.Event | None = None

    def read(self) -> dict[int, PickedToken]:
        """Returns the token of each slot; waits for the step to end."""
        if self.arrived is not None:
            self.arrived.synchronize()
        token_ids, logprobs = self.token_ids.tolist(), self.logprobs.tolist()
        return {slot: PickedToken(token_ids[row], logprobs[row]) for slot, row in self.row_of.items()}


@dataclass(frozen=True, slots=True)
class _IncomingBuffer:
    """The target of a copy of a step's outputs; pinned, so that the host does not wait for the copy."""

    token_ids: torch.Tensor
    logprobs: torch.Tensor
    arrived: torch.cuda.Event

    @classmethod
    def allocate(cls, slots: int) -> Self:
        return cls(
            torch.empty(slots, dtype=torch.long, pin_memory=True),
            torch.empty(slots, dtype=torch.float32, pin_memory=True),
            torch.cuda.Event(blocking=True),  # blocking: waiting uses no CPU time
        )


class ReadBack:
    """Starts the copies; the engine thread owns it."""

    def __init__(self, *, slots: int, steps_ahead: int, device: torch.device) -> None:
        """`steps_ahead` steps may be unread when the next one is started."""
        count = steps_ahead + 1 if device.type == "cuda" else 0
        self._buffers = [_IncomingBuffer.allocate(slots) for _ in range(count)]

    def start(self, row_of: Mapping[int, int], token_ids: torch.Tensor, logprobs: torch.Tensor) -> RunningStep:
        """Starts to copy a step's outputs, int64[rows] and float32[rows]; the next step on a GPU may overwrite them."""
        if not self._buffers:
            return RunningStep(row_of, token_ids, logprobs)
        buffer = self._buffers.pop(0)
        self._buffers.append(buffer)
        rows = len(token_ids)
        buffer.token_ids[:rows].copy_(token_ids, non_blocking=True)
        buffer.logprobs[:rows].copy_(logprobs, non_blocking=True)
        buffer.arrived.record()
        return RunningStep(row_of, buffer.token_ids, buffer.logprobs, buffer.arrived)


_STAGING_BUFFERS: Final = 2  # the next copy can be filled while the last one is running


@dataclass(frozen=True, slots=True)
class _OutgoingBuffer:
    """The source of a copy; pinned, so that the host does not wait for the copy."""

    content: torch.Tensor
    sent: torch.cuda.Event

    @classmethod
    def allocate(cls, like: torch.Tensor) -> Self:
        return cls(torch.empty(like.shape, dtype=like.dtype, pin_memory=True), torch.cuda.Event(blocking=True))


class Upload:
    """Copies host tensors into one device tensor, without blocking on a GPU."""

    def __init__(self, target: torch.Tensor) -> None:
        """`target` is on the model's device."""
        self._target = target
        self._buffers = [_OutgoingBuffer.allocate(target) for _ in range(_STAGING_BUFFERS if target.is_cuda else 0)]

    def __call__(self, source: torch.Tensor) -> None:
        """Copies `source`, which is on the host, to the first entries of the target, in the target's dtype."""
        target = self._target[: len(source)]
        if not self._buffers:
            target.copy_(source)
            return
        buffer = self._buffers.pop(0)
        self._buffers.append(buffer)
        buffer.sent.synchronize()
        target.copy_(buffer.content[: len(source)].copy_(source), non_blocking=True)
        buffer.sent.record()
