"""Captures a step in a CUDA graph: one launch instead of thousands."""

from collections.abc import Callable
from typing import Final, TypeVar

import torch

Output = TypeVar("Output")

_WARM_UP_RUNS: Final = 3  # before a capture, on a side stream: https://docs.pytorch.org/docs/stable/notes/cuda.html


def capture(step: Callable[[], Output]) -> Callable[[], Output]:
    """A function that replays a step's kernels on the same memory and returns its outputs, which the next call
    overwrites.

    The step must have fixed shapes and no host sync, and keep what changes in tensors that it updates in place.
    Capturing runs it a few times, so it must happen before any slot is occupied.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_RUNS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Another engine may be running meanwhile: by default its allocations would break the capture, and itself.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = step()

    def replay() -> Output:
        graph.replay()
        return output

    return replay
