"""The engine's metrics, separate from their publisher.

The engine's threads only append to a queue, which a publisher drains, so that no request waits for metrics. Every
family has the label `instance`, which names an engine of the server.
"""

import enum
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OBJECTS: Final = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0)
_MAX_UNPUBLISHED: Final = 100_000  # bounds memory if the publisher has died


class MetricKind(enum.Enum):
    """Prometheus' kinds."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its name, kind, help text, and a histogram's upper bounds."""

    name: str
    kind: MetricKind
    help: str
    buckets: tuple[float, ...] = ()


REQUESTS: Final = Family(
    "paligemma_requests_total", MetricKind.COUNTER, "Requests answered, by outcome: ok, or the code of the error."
)
PENDING: Final = Family(
    "paligemma_pending_requests", MetricKind.GAUGE, "Requests accepted that neither hold a slot nor are answered."
)
ACTIVE_SLOTS: Final = Family("paligemma_active_slots", MetricKind.GAUGE, "Sequences that hold a slot.")
SLOTS: Final = Family("paligemma_slots", MetricKind.GAUGE, "Slots of the decode batch.")
REQUEST_SECONDS: Final = Family(
    "paligemma_request_seconds", MetricKind.HISTOGRAM, "From accepting a request to its answer.", _SECONDS
)
FIRST_TOKEN_SECONDS: Final = Family(
    "paligemma_time_to_first_token_seconds",
    MetricKind.HISTOGRAM,
    "From accepting a request to its first token.",
    _SECONDS,
)
PREFILL_SECONDS: Final = Family(
    "paligemma_prefill_seconds",
    MetricKind.HISTOGRAM,
    "One prefill: images and prompts, one or several at once, through the model.",
    _SECONDS,
)
IMAGE_FEATURES: Final = Family(
    "paligemma_image_features_total",
    MetricKind.COUNTER,
    "Prompts by where their picture's features came from: computed, or kept from another one.",
)
DECODE_STEPS: Final = Family("paligemma_decode_steps_total", MetricKind.COUNTER, "Decode steps, each for all slots.")
DECODE_SECONDS: Final = Family("paligemma_decode_step_seconds_total", MetricKind.COUNTER, "Time spent in decode steps.")
DECODE_TOKENS: Final = Family("paligemma_decode_tokens_total", MetricKind.COUNTER, "Tokens from decode steps.")
OBJECTS: Final = Family("paligemma_objects_per_answer", MetricKind.HISTOGRAM, "Boxes that an answer holds.", _OBJECTS)
MODELS_LOADED: Final = Family(
    "paligemma_models_loaded", MetricKind.GAUGE, "Checkpoints in memory, by model_id and dtype."
)
MODELS_LOADING: Final = Family(
    "paligemma_models_loading", MetricKind.GAUGE, "Checkpoints being fetched or loaded, by model_id."
)
LOAD_SECONDS: Final = Family("paligemma_model_load_seconds", MetricKind.GAUGE, "How long the last load took.")

FAMILIES: Final = (
    REQUESTS,
    PENDING,
    ACTIVE_SLOTS,
    SLOTS,
    REQUEST_SECONDS,
    FIRST_TOKEN_SECONDS,
    PREFILL_SECONDS,
    IMAGE_FEATURES,
    DECODE_STEPS,
    DECODE_SECONDS,
    DECODE_TOKENS,
    OBJECTS,
    MODELS_LOADED,
    MODELS_LOADING,
    LOAD_SECONDS,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """An increment of a counter, the value of a gauge, or an observation of a histogram."""

    family: Family
    value: float
    labels: dict[str, str] = field(default_factory=dict)


_Series = tuple[Family, tuple[tuple[str, str], ...]]


class EngineMetrics:
    """Collects samples from any thread until they are drained."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_MAX_UNPUBLISHED)
        self._lock = threading.Lock()  # guards the gauges
        self._gauges: dict[_Series, dict[str, float]] = {}  # by share
        self._removed: list[Sample] = []
        self._published_gauges: dict[_Series, float] = {}

    def count(self, family: Family, amount: float = 1.0, **labels: str) -> None:
        """Adds to a counter."""
        self._samples.append(Sample(family, amount, labels))

    def observe(self, family: Family, value: float) -> None:
        """Adds an observation to a histogram."""
        self._samples.append(Sample(family, value))

    def set(self, family: Family, value: float, *, share: str = "", **labels: str) -> None:
        """Sets a gauge; its published value is the sum over all `share`s."""
        with self._lock:
            self._gauges.setdefault((family, tuple(labels.items())), {})[share] = value

    def remove(self, family: Family, **labels: str) -> None:
        """Publishes a gauge as 0 once, then drops it."""
        with self._lock:
            if self._gauges.pop((family, tuple(labels.items())), None):
                self._removed.append(Sample(family, 0.0, labels))

    def drain(self) -> list[Sample]:
        """Returns the samples since the last call: sums of counters, changed gauges, and each observation."""
        counters: dict[tuple[Family, tuple[str, ...]], Sample] = {}
        observations: list[Sample] = []
        while self._samples:
            sample = self._samples.popleft()
            if sample.family.kind is MetricKind.HISTOGRAM:
                observations.append(sample)
                continue
            key = (sample.family, tuple(sample.labels.values()))
            total = sample.value + (counters[key].value if key in counters else 0.0)
            counters[key] = Sample(sample.family, total, sample.labels)
        return [*counters.values(), *self._changed_gauges(), *observations]

    def _changed_gauges(self) -> list[Sample]:
        with self._lock:
            removed, self._removed = self._removed, []
            for sample in removed:  # a gauge that was set again after its removal is published after the 0
                self._published_gauges.pop((sample.family, tuple(sample.labels.items())), None)
            gauges = {series: sum(shares.values()) for series, shares in self._gauges.items()}
        changed = [
            Sample(family, value, dict(labels))
            for (family, labels), value in gauges.items()
            if self._published_gauges.get((family, labels)) != value
        ]
        self._published_gauges = gauges
        return [*removed, *changed]
