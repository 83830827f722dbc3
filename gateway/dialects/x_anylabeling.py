"""X-AnyLabeling's remote-server protocol (X-AnyLabeling-Server 70599dc, client 87da339).

The client reads only an answer's `data`. Without it, as with any other status, it removes the picture's shapes. So
every error has status 200, and `data` that leaves the picture unchanged.
"""

import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from gateway.answers.masks import encode_mask
from gateway.answers.outlines import largest_ring, simplified
from gateway.answers.segmentation import Segmentation, SegmentedObject
from gateway.answers.spaces import Space
from gateway.call import Call
from gateway.dialects.targets import ask_targets
from gateway.dialects.x_anylabeling_schemas import (
    EPSILON_FACTOR,
    RECTANGLES,
    Answer,
    Failure,
    ModelAnswer,
    ModelInfo,
    ModelsAnswer,
    PredictRequest,
    Problem,
    Shape,
    Shapes,
)
from gateway.documentation import EXAMPLE_IMAGE, json_body
from gateway.errors import ApiError, invalid_fields, late_error_body
from gateway.inputs.decoding import JSON_TYPE
from gateway.inputs.prompts import TARGET_SEPARATOR
from gateway.inputs.read import Received, SegmentBody, check_fields, decode_dialect_body, read_image_text
from gateway.routes.segment import image_of
from gateway.services import services_of
from gateway.settings import Settings

SEPARATORS: Final = re.compile(rf"[,.{TARGET_SEPARATOR}\n]")
SCORE_DECIMALS: Final = 4

# The original server's names; other codes are the gateway's in capitals.
_ORIGINAL_CODES: Final = {
    "invalid_image": "INVALID_IMAGE",
    "invalid_url": "INVALID_IMAGE",
    "missing_image": "INVALID_IMAGE",
    "model_not_allowed": "MODEL_NOT_FOUND",
    "model_gated": "MODEL_NOT_FOUND",
    "internal": "INFERENCE_ERROR",
    "model_failed": "INFERENCE_ERROR",
}
_IMAGE_SCHEMA: Final = {"type": "string", "description": "The picture: a data: URL, or base64."}
_EXAMPLE: Final = {
    "image": EXAMPLE_IMAGE,
    "params": {"text_prompt": "blue square, red circle", "conf_threshold": 0.0, "epsilon_factor": EPSILON_FACTOR},
}


class XAnyLabelingRoute(APIRoute):
    """Answers errors in this protocol's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the route's handler, which also answers errors."""
        serve = super().get_route_handler()

        async def serve_or_explain(request: Request) -> Response:
            try:
                return await serve(request)
            except RequestValidationError as error:
                return _failure(request, invalid_fields(error))
            except Exception as error:
                return _failure(request, error)

        return serve_or_explain


router = APIRouter(prefix="/v1", tags=["X-AnyLabeling"], route_class=XAnyLabelingRoute)


@router.get("/models", summary="The models, as X-AnyLabeling lists them", response_model=ModelsAnswer | Failure)
async def models(request: Request) -> Response:
    """The default model and the others in memory, with the client's widgets for them."""
    return _json(ModelsAnswer(data={model_id: ModelInfo.of(model_id) for model_id in await _model_ids(request)}))


@router.get(
    "/models/{model_id:path}/info",
    summary="One model, as X-AnyLabeling lists it",
    response_model=ModelAnswer | Failure,
)
async def model_info(request: Request, model_id: str) -> Response:
    """The same of one model."""
    if model_id not in await _model_ids(request):
        raise ApiError("model_not_found", "there is no such model; GET /v1/models lists them")
    return _json(ModelAnswer(data={"model_id": model_id, **ModelInfo.of(model_id).model_dump()}))


@router.post(
    "/predict",
    summary="Shapes of what a text names, for X-AnyLabeling",
    response_model=Answer | Failure,
    openapi_extra=json_body(PredictRequest, _IMAGE_SCHEMA, _EXAMPLE),
)
async def predict(request: Request) -> Response:
    """Polygons or rectangles in pixels of the sent picture; prompts are separated by commas or full stops."""
    call = Call.begin(request)
    received = await call.receive(partial(_decode, call.settings))
    return await call.answered(lambda: _answer(call, received))


def split_prompts(text: str) -> list[str]:
    """Returns the distinct prompts of a text, in order."""
    prompts = (prompt.strip() for prompt in SEPARATORS.split(text))
    return list(dict.fromkeys(prompt for prompt in prompts if prompt))


def shape_of(found: SegmentedObject, label: str, space: Space, *, rectangles: bool, epsilon_factor: float) -> Shape:
    """Returns an object's largest outline; its box if rectangles are asked for or there is no outline."""
    rings = [] if rectangles else encode_mask(found, "polygon", space)
    assert rings is None or isinstance(rings, list)
    ring = largest_ring(rings or [])
    if ring is not None:
        return Shape(
            label=label,
            shape_type="polygon",
            points=simplified(ring, epsilon_factor),
            score=round(found.score, SCORE_DECIMALS),
        )
    x_min, y_min, x_max, y_max = (float(value) for value in space.coordinates(found.box_xyxy))
    corners = [(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)]
    return Shape(label=label, shape_type="rectangle", points=corners, score=round(found.score, SCORE_DECIMALS))


async def _model_ids(request: Request) -> list[str]:
    listed = await services_of(request).models.get()
    return list(dict.fromkeys([listed.default, *listed.loaded]))


def _decode(settings: Settings, body: SegmentBody) -> Received[PredictRequest]:
    fields = decode_dialect_body(body, ("image",))
    image = fields.pop("image", None)
    form = check_fields(PredictRequest, fields)
    if not isinstance(image, str | memoryview):
        raise ApiError("missing_image", "send the picture as base64 in image")
    return Received(form, image=read_image_text(image, settings.max_image_bytes))


async def _answer(call: Call, received: Received[PredictRequest]) -> Response:
    form = received.form
    prompts = split_prompts(form.params.text_prompt)
    if not prompts:
        raise ApiError("invalid_prompt", "there is no text prompt; name the objects, separated by commas")
    model_id = None if form.model == call.settings.model_id else form.model
    segmentation = await ask_targets(call, prompts, await image_of(call, received), model_id=model_id)
    return await call.in_encoder(lambda: _encode(call, form, prompts, segmentation))


def _encode(call: Call, form: PredictRequest, prompts: list[str], segmentation: Segmentation) -> Response:
    space = Space.of("original", segmentation)
    rectangles = form.params.current_task == RECTANGLES
    shapes = []
    with call.record.phase("encode"):
        for found in segmentation.objects:
            call.checkpoint()
            if found.score >= form.params.conf_threshold:
                label = prompts[found.target]
                epsilon_factor = form.params.epsilon_factor
                shapes.append(shape_of(found, label, space, rectangles=rectangles, epsilon_factor=epsilon_factor))
        return _json(Answer(data=Shapes(shapes=shapes)))


def _failure(request: Request, error: Exception) -> Response:
    said = late_error_body(request, error)
    code = _ORIGINAL_CODES.get(said["code"], said["code"].upper())
    headers = error.headers if isinstance(error, ApiError) else {}
    return _json(Failure(error=Problem(code=code, message=said["detail"])), headers)


def _json(body: Answer | Failure | ModelsAnswer | ModelAnswer, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), media_type=JSON_TYPE, headers=headers)
