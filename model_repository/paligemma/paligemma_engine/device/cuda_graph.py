"""Captures a step in a CUDA graph: one launch instead of thousands."""

import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import torch

Output = TypeVar("Output")

_WARM_UP_RUNS: Final = 3  # before a capture, on a side stream: https://docs.pytorch.org/docs/stable/notes/cuda.html
# Engines of several checkpoints capture on one stream for each GPU, so they take turns.
_one_capture_at_a_time: Final = threading.Lock()


class CapturesSteps(Protocol):
    """What makes a graph of a step."""

    def __call__(self, step: Callable[[], Output], /) -> Callable[[], Output]:
        """A function that does what the step does, on the same tensors."""


class Capture:
    """Captures the steps of one runner.

    Their graphs share memory, since no two of them run at once, and what one puts out is copied before the next runs.
    The largest step should come first: what its graph takes serves the others.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], Output], /) -> Callable[[], Output]:
        """A function that replays a step's kernels and returns its outputs, which the next step may overwrite.

        The step must have fixed shapes and no host sync, and keep what changes in tensors that it updates in place.
        Capturing runs it a few times, so it must happen before any slot is occupied, on the runner's GPU (`on_device`).

        Raises:
            RuntimeError: the GPU does not capture it; the step itself can still be run, unless the GPU is lost.
        """
        with _one_capture_at_a_time:
            stream = _capture_stream(torch.cuda.current_device())
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Another engine may run meanwhile. By default its allocations would break the capture and the engine.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                output = step()
        return CapturedStep(graph, output, step)


class Graph(Protocol):
    """What a capture leaves; torch.cuda.CUDAGraph is one."""

    def replay(self) -> None:
        """Runs all kernels again."""


@dataclass(frozen=True, slots=True)
class CapturedStep(Generic[Output]):
    """A graph; it reads the tensors of the step that it was captured from, and does not keep them alive itself."""

    graph: Graph
    output: Output
    step: Callable[[], Output]

    def __call__(self) -> Output:
        """Runs the kernels on what the step's tensors hold now."""
        self.graph.replay()
        return self.output


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the thread's current one: streams, events and graphs belong to that, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@functools.cache
def _capture_stream(device_index: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device_index)
