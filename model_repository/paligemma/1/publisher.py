"""Publishes the engine's metrics in Triton's /metrics."""

import logging
import threading
from typing import Any, Final

import triton_python_backend_utils as pb_utils

from paligemma_engine import EngineMetrics
from paligemma_engine.metrics import FAMILIES, Family, MetricKind, Sample

_log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S: Final = 2.0  # a call to a dead server never returns
_INTERVAL_S: Final = 0.5  # each sample is a round trip to the server, so they go out in batches, off the hot path


class MetricsPublisher:
    """A thread that drains an EngineMetrics into Triton's metric families."""

    def __init__(self, metrics: EngineMetrics, *, instance: str) -> None:
        self._metrics = metrics
        self._instance = instance
        self._families = {family: _declare(family) for family in FAMILIES}
        self._series: dict[tuple[Family, tuple[str, ...]], Any] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publishes what is left and ends the thread."""
        self._stopping.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            self._publish()
        self._publish()

    def _publish(self) -> None:
        for sample in self._metrics.drain():
            try:
                self._send(sample)
            except Exception:
                _log.exception("a sample of %s could not be published", sample.family.name)

    def _send(self, sample: Sample) -> None:
        series = self._series_of(sample)
        match sample.family.kind:
            case MetricKind.COUNTER:
                series.increment(sample.value)
            case MetricKind.GAUGE:
                series.set(sample.value)
            case MetricKind.HISTOGRAM:
                series.observe(sample.value)

    def _series_of(self, sample: Sample) -> Any:
        key = (sample.family, tuple(sample.labels.values()))
        if key not in self._series:
            options = {"buckets": list(sample.family.buckets)} if sample.family.buckets else {}
            labels = {"instance": self._instance, **sample.labels}
            self._series[key] = self._families[sample.family].Metric(labels=labels, **options)
        return self._series[key]


def _declare(family: Family) -> Any:
    kind = getattr(pb_utils.MetricFamily, family.kind.name)
    return pb_utils.MetricFamily(name=family.name, description=family.help, kind=kind)
