"""Translates the hub's errors into ours."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from paligemma_engine.checkpoints.model_id import ModelId
from paligemma_engine.errors import EngineError, HubFailed, ModelGated, ModelNotFound

_WHERE_TOKENS_GO: Final = "put the token in HF_TOKEN, in a file that HF_TOKEN_PATH names, or in /run/secrets/hf_token"
_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def explain(wanted: ModelId, error: Exception) -> EngineError:
    """Returns our error for an exception of a download; the hub's library wraps some in others."""
    if isinstance(error, EngineError):
        return error
    for cause in _chain(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return HubFailed(f"{wanted} is not complete in the local cache, and HF_HUB_OFFLINE forbids a download")
        if isinstance(cause, RevisionNotFoundError):
            return ModelNotFound(f"{wanted.name} has no revision {wanted.revision}; check the part after the @")
        if isinstance(cause, HFValidationError):
            return ModelNotFound(f"{wanted} is neither a folder under MODELS_DIR nor a hub id")
        if isinstance(cause, HfHubHTTPError):
            return _explain_status(wanted, cause)
    *_, first = _chain(error)
    return HubFailed(f"{wanted} could not be downloaded ({_brief(first)}); try again later")


def _explain_status(wanted: ModelId, error: HfHubHTTPError) -> EngineError:
    page = f"{constants.ENDPOINT}/{wanted.name}"
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return ModelGated(f"{wanted} is gated: accept its licence at {page} and {_WHERE_TOKENS_GO}")
    if status in _REFUSED:
        # Without a token the hub gives the same answer for a private and for a missing model.
        return ModelGated(
            f"the hub refuses {wanted} (status {status}): check the id; for a gated or private model accept its "
            f"licence at {page} and {_WHERE_TOKENS_GO}; where there is a token already, it is wrong or lacks the right "
            "to read gated models"
        )
    if isinstance(error, RepositoryNotFoundError) or status == HTTPStatus.NOT_FOUND:
        return ModelNotFound(f"the hub has no {wanted}, or its token may not see it; check the id")
    return HubFailed(f"the hub answered {status} for {wanted}; try again later")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _brief(error: BaseException) -> str:
    """The first line, without the text after a `?`: download URLs are signed."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split("?")[0]
