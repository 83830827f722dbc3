"""Captures a step in a CUDA graph: one launch instead of thousands."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import torch

Output = TypeVar("Output")

_WARM_UP_RUNS: Final = 3  # before a capture, on a side stream: https://docs.pytorch.org/docs/stable/notes/cuda.html


class Capture:
    """Captures the steps of one runner.

    Their graphs share memory, since no two of them run at once, and what one puts out is copied before the next runs.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], Output]) -> Callable[[], Output]:
        """A function that replays a step's kernels and returns its outputs, which the next step may overwrite.

        The step must have fixed shapes and no host sync, and keep what changes in tensors that it updates in place.
        Capturing runs it a few times, so it must happen before any slot is occupied, on the runner's GPU (`on_device`).
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP_RUNS):
                step()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Another engine may be running meanwhile: by default its allocations would break the capture, and itself.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = step()
        return _CapturedStep(graph, output, step)


@dataclass(frozen=True, slots=True)
class _CapturedStep(Generic[Output]):
    """A graph; it reads the tensors of the step that it was captured from, and does not keep them alive itself."""

    graph: torch.cuda.CUDAGraph
    output: Output
    step: Callable[[], Output]

    def __call__(self) -> Output:
        self.graph.replay()
        return self.output


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the thread's current one: streams, events and graphs belong to that, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
