"""Time as the device has it: what was asked of a GPU is not done when the call returns."""

import time
from collections.abc import Callable
from typing import Any

import torch


class DeviceClock:
    """Marks moments: on a GPU in its stream of work, on the CPU on the host's clock."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def mark(self) -> Any:
        """The moment when everything asked for so far is done."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, earlier: Any, later: Any) -> float:
        """Between two marks, both of which have passed."""
        if not self._on_gpu:
            return float(later - earlier)
        return float(earlier.elapsed_time(later)) / 1e3

    def synchronize(self) -> None:
        """Returns when everything asked for is done."""
        if self._on_gpu:
            torch.cuda.synchronize()

    def time(self, work: Callable[[], object], *, repeats: int = 1) -> float:
        """Seconds that each of `repeats` runs takes, one directly after another."""
        self.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        self.synchronize()
        return (time.perf_counter() - started) / repeats


class WatchedRunner:
    """A runner whose prefills and decode steps are marked where they begin and end; all else is the runner's own."""

    def __init__(self, runner: Any, clock: DeviceClock) -> None:
        self._runner = runner
        self._clock = clock
        self._calls: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def prefill(self, *arguments: Any) -> Any:
        """As the runner's."""
        return self._watch(self._runner.prefill, arguments)

    def decode(self, *arguments: Any) -> Any:
        """As the runner's."""
        return self._watch(self._runner.decode, arguments)

    def idle_and_total_s(self) -> tuple[float, float]:
        """Seconds that the device had nothing to do between two calls, and from the first call to the last."""
        self._clock.synchronize()
        gaps = zip(self._calls, self._calls[1:], strict=False)
        idle_s = sum(self._clock.seconds(ended, began) for (_, ended), (began, _) in gaps)
        return idle_s, self._clock.seconds(self._calls[0][0], self._calls[-1][1])

    def _watch(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        began = self._clock.mark()
        result = call(*arguments)
        self._calls.append((began, self._clock.mark()))
        return result
