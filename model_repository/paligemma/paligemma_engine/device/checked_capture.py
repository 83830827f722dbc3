"""Compares a step's graph with the step itself before requests depend on it."""

import logging
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import torch

from paligemma_engine.device.cuda_graph import CapturesSteps
from paligemma_engine.errors import ModelFailed

Output = TypeVar("Output")
Output_co = TypeVar("Output_co", covariant=True)

_log = logging.getLogger(__name__)

# Same kernels, same order: a difference beyond rounding is a fault.
_RELATIVE_TOLERANCE: Final = 0.02
_ABSOLUTE_TOLERANCE: Final = 1e-3


class RehearsedStep(Protocol[Output_co]):
    """A prefill, a decode step, or the vision tower."""

    def __call__(self) -> Output_co:
        """Runs the step on its present inputs."""

    def rehearse(self, number: int) -> None:
        """Sets made-up inputs; each number, from 0, gives other inputs, always the same ones."""


def capture_checked(step: RehearsedStep[Output], capture: CapturesSteps, *, strict: bool) -> Callable[[], Output]:
    """Returns the step's graph, or the step itself if the capture fails or the graph's results differ.

    Args:
        step: the step to capture; also run without a graph for comparison.
        capture: makes the graph.
        strict: whether a step without a graph is an error.

    Raises:
        ModelFailed: `strict`, and the graph cannot be used; says what to set.
    """
    try:
        step.rehearse(0)
        replay = capture(step)
        step.rehearse(1)  # other inputs than at the capture: the graph must read the current ones
        plain = [tensor.clone() for tensor in _tensors(step())]
        step.rehearse(1)
        if all(map(_alike, _tensors(replay()), plain)):
            return replay
        problem = "its CUDA graph answered differently"
    except torch.OutOfMemoryError:  # not the graph's fault; the caller says what to set
        raise
    except RuntimeError as error:  # torch's error type; if the GPU is lost, the next call fails, too
        problem = f"its CUDA graph failed ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    if strict:
        raise ModelFailed(f"a step cannot be captured: {problem}; set CUDA_GRAPHS=auto or off")
    _log.warning("%s runs without a CUDA graph, and takes longer: %s", type(step).__name__, problem)
    return step


def _tensors(output: object) -> tuple[torch.Tensor, ...]:
    outputs = output if isinstance(output, tuple) else (output,)
    return tuple(tensor for tensor in outputs if isinstance(tensor, torch.Tensor))


def _alike(replayed: torch.Tensor, plain: torch.Tensor) -> bool:
    """Whether tokens are equal, or log-probabilities and features close."""
    if not plain.is_floating_point():
        return torch.equal(replayed, plain)
    return torch.allclose(replayed, plain, rtol=_RELATIVE_TOLERANCE, atol=_ABSOLUTE_TOLERANCE, equal_nan=True)
