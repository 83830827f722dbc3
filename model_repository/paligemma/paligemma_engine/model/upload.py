"""Brings a prompt's inputs to the device; to a GPU without waiting for what it is still running."""

from dataclasses import dataclass
from typing import Final, Self

import torch

_STAGING_BUFFERS: Final = 2  # so that the next copy can be filled while the last one is under way


@dataclass(frozen=True, slots=True)
class _PinnedBuffer:
    """Where a copy comes from; pinned, since only then the host need not wait for it."""

    content: torch.Tensor
    sent: torch.cuda.Event

    @classmethod
    def allocate(cls, like: torch.Tensor) -> Self:
        return cls(torch.empty(like.shape, dtype=like.dtype, pin_memory=True), torch.cuda.Event(blocking=True))


class Upload:
    """Fills one tensor again and again."""

    def __init__(self, target: torch.Tensor) -> None:
        """`target` is on the model's device."""
        self._target = target
        self._buffers = [_PinnedBuffer.allocate(target) for _ in range(_STAGING_BUFFERS if target.is_cuda else 0)]

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
