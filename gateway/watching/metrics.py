"""The gateway's metrics for Prometheus."""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from gateway.watching.record import RequestRecord
from gateway.watching.replica_metrics import ReplicaMetrics

SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BYTES_BUCKETS: Final = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7)


class Metrics:
    """The gateway's own collectors, in their own registry, because a process may build many applications."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.in_flight = Gauge(
            "gateway_requests_in_flight",
            "Requests to /segment and /segment/stream that are being served.",
            registry=self.registry,
        )
        self.replicas = ReplicaMetrics(self.registry)
        self.body_bytes = Gauge(
            "gateway_body_bytes_in_flight",
            "Bytes of requests, and of answers on their way, that the gateway holds.",
            registry=self.registry,
        )
        self.fetches_blocked = Counter(
            "gateway_fetches_blocked",
            "Image URLs that lead nowhere or where they may not, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._requests = Counter(
            "gateway_requests",
            "Requests by route template and HTTP status; 499 where the client went away. A stream that ends with an "
            "error counts with that error's status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._rejected = Counter(
            "gateway_requests_rejected",
            "Requests answered with an error, by its code.",
            ["reason"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "gateway_request_seconds",
            "Duration of whole requests.",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._phase_seconds = Histogram(
            "gateway_phase_seconds",
            "Duration of a request's phases: receive, fetch, inference (queueing included), encode.",
            ["phase"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._image_bytes = Histogram(
            "gateway_image_bytes", "Size of encoded images.", buckets=BYTES_BUCKETS, registry=self.registry
        )

    def count_blocked_fetch(self, reason: str) -> None:
        """A URL was refused."""
        self.fetches_blocked.labels(reason).inc()

    def count(self, record: RequestRecord, *, route: str, status: int, seconds: float) -> None:
        """A request has ended."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)
        if record.code is not None:
            self._rejected.labels(record.code).inc()
        for phase, phase_seconds in record.phases_s.items():
            self._phase_seconds.labels(phase).observe(phase_seconds)
        if (image_bytes := record.sizes.get("image_bytes")) is not None:
            self._image_bytes.observe(image_bytes)
