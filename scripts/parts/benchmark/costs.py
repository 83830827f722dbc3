"""Measures what processes cost: CPU seconds, memory, and the time to the first token from the engine's metrics."""

import contextlib
import threading
from typing import Final, Self

import httpx2
import psutil

FIRST_TOKEN: Final = "paligemma_time_to_first_token_seconds"  # noqa: S105  # not a secret
SAMPLE_INTERVAL_S: Final = 0.25


class Meter:
    """CPU seconds and peak memory of process trees while the context lasts."""

    def __init__(self, roots: list[int]) -> None:
        self._roots = roots
        self._stopping = threading.Event()
        self.peak_bytes = 0
        self.cpu_s = 0.0

    def __enter__(self) -> Self:
        self._before = cpu_s_of(self._tree())
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join()
        self.cpu_s = cpu_s_of(self._tree()) - self._before

    def _tree(self) -> list[psutil.Process]:
        processes = [psutil.Process(pid) for pid in self._roots]
        return processes + [child for process in processes for child in process.children(recursive=True)]

    def _sample(self) -> None:
        tree = self._tree()
        while True:
            with contextlib.suppress(psutil.Error):
                # An upper bound: shared pages are counted once for each process that maps them.
                self.peak_bytes = max(self.peak_bytes, sum(process.memory_info().rss for process in tree))
            if self._stopping.wait(SAMPLE_INTERVAL_S):
                return


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
