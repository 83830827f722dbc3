"""The models that requests can name, and those in memory, from the engines' metrics."""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from gateway.door.deadline import Deadline
from gateway.errors import ApiError
from gateway.schemas import Models
from gateway.settings import Settings
from gateway.triton.client import UNAVAILABLE

LOADED: Final = "paligemma_models_loaded"
LOADING: Final = "paligemma_models_loading"
LOAD_SECONDS: Final = "paligemma_model_load_seconds"
TIMEOUT_S: Final = 2.0
MIN_RETRY_AFTER_S: Final = 2
MAX_RETRY_AFTER_S: Final = 120


@dataclass(frozen=True, slots=True)
class Gauges:
    """The engines' gauges about models.

    Attributes:
        loaded: models in memory, of all engines: the number formats that each computes in, by its id.
        loading: ids of models being downloaded or loaded.
        load_s: the longest of the engines' last load times; 0 before the first.
    """

    loaded: Mapping[str, frozenset[str]]
    loading: frozenset[str]
    load_s: float


class ModelCatalog:
    """Reads the engines' gauges; one for the whole application."""

    def __init__(self, settings: Settings, urls: Callable[[], Sequence[str]] | None = None) -> None:
        """Takes the gauges' URLs.

        Args:
            settings: the gateway's settings.
            urls: returns the present replicas' metrics URLs; None for those of the settings.
        """
        self._settings = settings
        self._urls = urls or (lambda: settings.triton_metrics_urls)
        self._loading_since: dict[str, float] = {}
        self._client = httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False)

    async def close(self) -> None:
        """Closes the connection."""
        await self._client.aclose()

    async def read(self) -> Models:
        """Returns the present models; raises ApiError if no Triton answers."""
        gauges = await self._ask()
        return Models(
            default=self._settings.model_id,
            allowed=list(self._settings.allowed_model_ids),
            loaded=sorted(gauges.loaded),
            loading=sorted(gauges.loading),
            dtypes={model_id: sorted(gauges.loaded[model_id]) for model_id in sorted(gauges.loaded)},
        )

    async def retry_after_s(self, waited_s: float, deadline: Deadline) -> int:
        """Returns when a request that got `loading` may find its model, if this load takes as long as the last one.

        Args:
            waited_s: how long the request waited; the load has taken at least as long.
            deadline: the request's, which also limits this call.
        """
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                gauges = await self._ask()
        except (ApiError, TimeoutError):
            return MIN_RETRY_AFTER_S
        now = time.monotonic()
        self._loading_since = {
            model_id: self._loading_since.get(model_id, now - waited_s) for model_id in gauges.loading
        }
        elapsed_s = now - min(self._loading_since.values(), default=now - waited_s)
        remaining_s = gauges.load_s - elapsed_s
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, math.ceil(remaining_s)))

    async def _ask(self) -> Gauges:
        """Merges the gauges of all replicas that answer; raises ApiError if none does."""
        said = await asyncio.gather(*(self._ask_one(url) for url in self._urls()))
        answers = [gauges for gauges in said if isinstance(gauges, Gauges)]
        if not answers:
            raise ApiError("unavailable", UNAVAILABLE) from next(
                (each for each in said if isinstance(each, Exception)), None
            )
        return Gauges(
            loaded=_merged(pair for gauges in answers for pair in gauges.loaded.items()),
            loading=frozenset().union(*(gauges.loading for gauges in answers)),
            load_s=max(gauges.load_s for gauges in answers),
        )

    async def _ask_one(self, url: str) -> Gauges | Exception:
        """Returns a replica's gauges, or the error."""
        try:
            response = await self._client.get(url)
            response.raise_for_status()
            return _read_gauges(response.text)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            return error


def _read_gauges(text: str) -> Gauges:
    """Raises ValueError if the text is not in the metrics format."""
    samples = {family.name: family.samples for family in text_string_to_metric_families(text)}

    def labels(name: str) -> list[dict[str, str]]:
        return [sample.labels for sample in samples.get(name, ()) if sample.value > 0]

    load_s = max((sample.value for sample in samples.get(LOAD_SECONDS, ())), default=0.0)
    return Gauges(
        loaded=_merged(
            (each.get("model_id", ""), {each["dtype"]} if "dtype" in each else ()) for each in labels(LOADED)
        ),
        loading=frozenset(each.get("model_id", "") for each in labels(LOADING)),
        load_s=load_s,
    )


def _merged(dtypes: Iterable[tuple[str, Collection[str]]]) -> dict[str, frozenset[str]]:
    """Puts together the number formats of each model; an engine may not say its own."""
    merged: dict[str, frozenset[str]] = {}
    for model_id, more in dtypes:
        merged[model_id] = merged.get(model_id, frozenset()).union(more)
    return merged
