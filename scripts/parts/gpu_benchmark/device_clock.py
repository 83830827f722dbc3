"""Measures time on the device, because GPU calls return before their work is done."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch


class DeviceClock:
    """Marks points in time: on a GPU as events in its stream, on the CPU with the host's clock."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def mark(self) -> Any:
        """Marks the time at which all work submitted so far is done."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, earlier: Any, later: Any) -> float:
        """Seconds between two marks; both must have passed."""
        if not self._on_gpu:
            return float(later - earlier)
        return float(earlier.elapsed_time(later)) / 1e3

    def synchronize(self) -> None:
        """Waits until all submitted work is done."""
        if self._on_gpu:
            torch.cuda.synchronize()

    def time(self, work: Callable[[], object], *, repeats: int = 1) -> float:
        """Mean seconds of `repeats` runs, back to back."""
        self.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        self.synchronize()
        return (time.perf_counter() - started) / repeats


class WatchedRunner:
    """Wraps a runner and marks begin and end of its prefills and decode steps; all else is passed to the runner."""

    def __init__(self, runner: Any, clock: DeviceClock) -> None:
        self._runner = runner
        self._clock = clock
        self._calls: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def prefill(self, *arguments: Any, **named: Any) -> Any:
        """The runner's `prefill`, with marks."""
        return self._watch(partial(self._runner.prefill, *arguments, **named))

    def decode(self, *arguments: Any) -> Any:
        """The runner's `decode`, with marks."""
        return self._watch(partial(self._runner.decode, *arguments))

    def idle_and_total_s(self) -> tuple[float, float]:
        """Returns the device's idle seconds between calls, and the seconds from the first call to the last."""
        self._clock.synchronize()
        gaps = zip(self._calls, self._calls[1:], strict=False)
        idle_s = sum(self._clock.seconds(ended, began) for (_, ended), (began, _) in gaps)
        return idle_s, self._clock.seconds(self._calls[0][0], self._calls[-1][1])

    def _watch(self, call: Callable[[], Any]) -> Any:
        began = self._clock.mark()
        result = call()
        self._calls.append((began, self._clock.mark()))
        return result
