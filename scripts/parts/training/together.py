"""Trains one model in several processes: each takes a part of a step's pictures, and all make the same step.

On a CPU two processes with one thread each are nearly twice as fast as one with two, because the matrices are small.
"""

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import distributed

_LOOPBACK: Final = {"GLOO_SOCKET_IFNAME": "lo"}


@dataclass(frozen=True, slots=True)
class Together:
    """A process's rank among those that train together.

    Attributes:
        rank: 0 for the first, which keeps the clock, the curve and the state.
        count: number of processes; a single one exchanges nothing.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the state and the curve."""
        return self.rank == 0

    def mean_gradients(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """Gives every process the mean of all gradients; a weight without a gradient in any process keeps none."""
        if self.count == 1:
            return
        weights = list(weights)
        there = torch.tensor([float(weight.grad is not None) for weight in weights], device=weights[0].device)
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([there, *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(flat)
        there, *means = flat.split([len(weights), *(weight.numel() for weight in weights)])
        for weight, mean, anywhere in zip(weights, means, there.tolist(), strict=True):
            weight.grad = mean.view_as(weight) / self.count if anywhere else None

    def as_the_first(self, *values: float) -> list[float]:
        """The first process's values, in every process."""
        if self.count == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(shared, src=0)
        return [float(value) for value in shared]


def train_together(count: int, train: Callable[[Together, Any], None], argument: Any) -> None:
    """Calls a function in this process, as the first, and in `count - 1` others, on the CPU.

    Args:
        count: number of processes; the machine's threads are divided among them.
        train: called with the rank and the argument; must be importable, because the others are new processes.
        argument: picklable.
    """
    if count == 1:
        train(Together(), argument)
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meet = Path(folder) / "processes"
        others = [
            context.Process(target=_join, args=(Together(rank, count), meet, train, argument))
            for rank in range(1, count)
        ]
        for other in others:
            other.start()
        try:
            _join(Together(0, count), meet, train, argument)
        except BaseException:
            for other in others:
                other.kill()
            raise
        finally:
            for other in others:
                other.join()


def _join(place: Together, meet: Path, train: Callable[[Together, Any], None], argument: Any) -> None:
    if not place.is_first:  # a signal to the whole group stops the first process, which stops the others
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.count))
    os.environ.update(_LOOPBACK)
    distributed.init_process_group("gloo", meet.as_uri(), rank=place.rank, world_size=place.count)
    try:
        train(place, argument)
    finally:
        distributed.destroy_process_group()
