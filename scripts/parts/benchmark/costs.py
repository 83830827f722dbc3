"""Measures what processes cost: CPU seconds, memory, and the time to the first token from the engine's metrics."""

import contextlib
import threading
import time
from typing import Final, Self

import httpx2
import psutil

FIRST_TOKEN: Final = "paligemma_time_to_first_token_seconds"  # noqa: S105  # not a secret
SAMPLE_INTERVAL_S: Final = 0.25
# The kernel walks all pages for a sample: 65 ms for a process of 7 GB, in which it cannot map or unmap memory.
PAUSE_PER_SAMPLE: Final = 20.0  # times as long as a sample took


class Meter:
    """CPU seconds and peak memory of process trees while the context lasts, and how long that was.

    Memory is the sum of proportional set sizes (PSS): a page that several processes map is divided between them, so
    that it counts once. It is sampled at the start, at the end and in between, less often the longer a sample takes.
    """

    def __init__(self, roots: list[int]) -> None:
        self._roots = roots
        self._stopping = threading.Event()
        self.peak_bytes = 0
        self.cpu_s = 0.0
        self.wall_s = 0.0

    def __enter__(self) -> Self:
        self._before = cpu_s_of(self._tree())
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.wall_s = time.perf_counter() - self._started
        self.cpu_s = cpu_s_of(self._tree()) - self._before
        self._stopping.set()
        self._thread.join()

    def _tree(self) -> list[psutil.Process]:
        processes = [psutil.Process(pid) for pid in self._roots]
        return processes + [child for process in processes for child in process.children(recursive=True)]

    def _sample(self) -> None:
        tree = self._tree()
        is_last = False
        while True:
            started = time.perf_counter()
            self.peak_bytes = max(self.peak_bytes, memory_of(tree))
            if is_last:
                return
            pause_s = max(SAMPLE_INTERVAL_S, PAUSE_PER_SAMPLE * (time.perf_counter() - started))
            is_last = self._stopping.wait(pause_s)


def first_token_totals(metrics_url: str) -> tuple[float, float]:
    """Returns the sum of seconds to the first token and the number of requests, since the server's start."""
    lines = httpx2.get(metrics_url, timeout=10, trust_env=False).raise_for_status().text.splitlines()
    totals = {"sum": 0.0, "count": 0.0}
    for line in lines:
        for part in totals:
            if line.startswith(f"{FIRST_TOKEN}_{part}"):
                totals[part] += float(line.rpartition(" ")[2])
    return totals["sum"], totals["count"]


def cpu_s_of(processes: list[psutil.Process]) -> float:
    """CPU seconds of processes so far, over all threads; processes that have ended are not counted."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def memory_of(processes: list[psutil.Process]) -> int:
    """Bytes of memory of processes, shared pages counted once; processes that have ended are not counted."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total
