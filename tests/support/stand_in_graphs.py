"""What stands in for CUDA graphs on the CPU: the runner captures with it as it does on a GPU."""

from collections.abc import Callable
from typing import Any

import torch


class Captures:
    """Counts what it captures. Its graphs write, as CUDA's do, all outputs to the same place."""

    def __init__(self) -> None:
        self.captured: list[str] = []
        self.replayed = 0

    def __call__(self, step: Callable[[], Any], /) -> Callable[[], Any]:
        self.captured.append(type(step).__name__)
        output = step()

        def replay() -> Any:
            self.replayed += 1
            for kept, computed in zip(tensors(output), tensors(step()), strict=True):
                kept.copy_(computed)
            return output

        return replay


class FailsToCapture:
    """As a driver that does not bear it."""

    def __init__(self) -> None:
        self.tried = 0

    def __call__(self, step: Callable[[], Any], /) -> Callable[[], Any]:
        self.tried += 1
        raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing\nand more lines")


class AnswersAsAtCapture:
    """Its graphs have seen only what the step's tensors held when they were captured."""

    def __call__(self, step: Callable[[], Any], /) -> Callable[[], Any]:
        first = tuple(tensor.clone() for tensor in tensors(step()))
        return lambda: first if len(first) > 1 else first[0]


def tensors(output: Any) -> tuple[torch.Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)
