"""Which models can be asked for, and which are in memory: the engines say so in Triton's metrics."""

from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import ApiError
from gateway.schemas import Models
from gateway.settings import Settings

LOADED: Final = "paligemma_models_loaded"
LOADING: Final = "paligemma_models_loading"
TIMEOUT_S: Final = 2.0


class ModelCatalog:
    """Reads the engines' gauges; one for the whole application."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False)

    async def close(self) -> None:
        """Closes the connection."""
        await self._client.aclose()

    async def read(self) -> Models:
        """The models at this moment; raises ApiError where Triton does not say."""
        try:
            response = await self._client.get(self._settings.triton_metrics_url)
            response.raise_for_status()
            by_family = _model_ids(response.text)
        except (httpx2.HTTPError, ValueError) as error:
            raise ApiError("unavailable", "the model server cannot be reached; try again later") from error
        return Models(
            default=self._settings.model_id,
            allowed=list(self._settings.allowed_model_ids),
            loaded=sorted(by_family[LOADED]),
            loading=sorted(by_family[LOADING]),
        )


def _model_ids(text: str) -> dict[str, set[str]]:
    """The models whose gauges are not 0, whichever engine has them; raises ValueError for what is no metrics text."""
    model_ids: dict[str, set[str]] = {LOADED: set(), LOADING: set()}
    for family in text_string_to_metric_families(text):
        if family.name in model_ids:
            model_ids[family.name] |= {
                sample.labels.get("model_id", "") for sample in family.samples if sample.value > 0
            }
    return model_ids
