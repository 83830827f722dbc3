"""The paths of a machine learning backend, under /label-studio.

Label Studio waits 1 s for `health`, 3 s for `setup` and 100 s for `predict`, and asks the first two before each of the
last.
"""

from functools import partial
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from gateway.call import Call
from gateway.dialects.label_studio.interface import read_interface
from gateway.dialects.label_studio.pictures import Pictures
from gateway.dialects.label_studio.predictions import Predictor
from gateway.dialects.label_studio.schemas import PredictBody, SetupBody
from gateway.door.access import require_key_or_password
from gateway.door.bodies import share_of
from gateway.door.deadline import Deadline
from gateway.door.disconnect import while_connected
from gateway.errors import ApiError
from gateway.inputs.decoding import JSON_TYPE
from gateway.inputs.read import SegmentBody
from gateway.services import services_of
from gateway.settings import Settings
from gateway.watching.metrics import Metrics
from gateway.watching.record import record_of

PREFIX: Final = "/label-studio"
PREDICT_TIMEOUT_S: Final = 90.0  # Label Studio's 100 s, less the time to send a large answer

Body = TypeVar("Body", bound=BaseModel)

open_router = APIRouter(prefix=PREFIX, include_in_schema=False)
router = APIRouter(prefix=PREFIX, include_in_schema=False)


def add_label_studio(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Adds the paths if LABEL_STUDIO_URL is set; they need a key if the gateway has keys."""
    if settings.label_studio_url is None:
        return
    app.state.label_studio_pictures = Pictures(settings, metrics)
    protection = [] if settings.api_keys_file is None else [Depends(require_key_or_password)]
    app.include_router(open_router)
    app.include_router(router, dependencies=protection)


@router.get("/health")
async def health() -> dict[str, str]:
    """Says that the backend is alive; does not ask Triton."""
    return {"status": "UP", "model_class": "PaliGemma"}


@open_router.post("/webhook", status_code=201)
async def webhook() -> dict[str, Any]:
    """Accepts Label Studio's notices of annotations, which come without a key; they are not read."""
    return {"result": {}, "status": "ok"}


@router.post("/setup")
async def setup(request: Request) -> dict[str, str]:
    """Answers a project's connection with the model version; raises ApiError if its interface cannot be served."""
    call = _begin(request)
    body = await call.receive(partial(_decode, SetupBody))
    await call.in_decoder(lambda: read_interface(body.labelling_interface))
    return {"model_version": _model_version(request)}


@router.post("/validate")
@router.post("/duplicate_model")
@router.post("/delete")
async def acknowledge() -> dict[str, str]:
    """Accepts a call that needs no work, since nothing of a project is stored."""
    return {"status": "ok"}


@router.get("/versions")
async def versions(request: Request) -> dict[str, Any]:
    """Lists the model versions."""
    return {"versions": [_model_version(request)], "message": "OK"}


@router.post("/predict")
async def predict(request: Request) -> Response:
    """Returns one entry for each task; entries of tasks that were not answered in time have no result."""
    call = _begin(request)
    body = await call.receive(partial(_decode, PredictBody))
    interface = await call.in_decoder(lambda: read_interface(body.label_config))
    predictor = Predictor(
        call=call,
        interface=interface,
        pictures=request.app.state.label_studio_pictures,
        model_version=_model_version(request),
        typed=body.typed,
    )
    entries = await while_connected(request.receive, lambda: predictor.predict(body.tasks))
    return Response(b'{"results": [' + b", ".join(entries) + b"]}", media_type=JSON_TYPE)


def _begin(request: Request) -> Call:
    """Begins a call that may wait for a place: Label Studio drops a project's predictions at a refusal."""
    deadline = Deadline(PREDICT_TIMEOUT_S)
    return Call(request, services_of(request), record_of(request.scope), deadline, share_of(request.scope))


def _decode(model: type[Body], received: SegmentBody) -> Body:
    if received.content.media_type != JSON_TYPE:
        raise ApiError("unsupported_media_type", f"send {JSON_TYPE}")
    try:
        return model.model_validate_json(bytes(received.body))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from error


def _model_version(request: Request) -> str:
    return services_of(request).settings.model_id
