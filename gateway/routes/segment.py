"""POST /segment."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.answers.response import build_response
from gateway.answers.segmentation import Segmentation
from gateway.call import Call, Question
from gateway.documentation import error_responses, request_body
from gateway.inputs.decoding import JSON_TYPE
from gateway.inputs.read import EncodedImage, Received, SegmentBody, SegmentInput, decode_segment_input
from gateway.schemas import SegmentForm, SegmentResponse
from gateway.settings import Settings

router = APIRouter()


@router.post(
    "/segment",
    summary="Find what a prompt asks for in an image",
    response_model=SegmentResponse,
    responses=error_responses(),
    openapi_extra=request_body(),
)
@router.post("/segment/", include_in_schema=False)
async def segment(request: Request) -> Response:
    """Masks, boxes, labels and scores of what the prompt names; `masks` is empty where there is nothing of it."""
    call = Call.begin(request)
    received = await receive(call)
    return await call.answered(lambda: _answer(call, received))


async def receive(call: Call) -> SegmentInput:
    """Reads the request's fields and its image; raises ApiError or RequestValidationError if they cannot be served."""
    return await call.receive(partial(_decode, call.settings))


async def image_of(call: Call, received: Received[Any]) -> EncodedImage:
    """Takes the image out of the request, or fetches it from the request's URL; raises ApiError if that fails."""
    image = received.take_image()
    if image is not None:
        return image
    assert received.image_url is not None
    return await call.fetch(received.image_url)


def question_of(form: SegmentForm) -> Question:
    """What the request's fields ask of the image."""
    return Question(form.prompt, form.model_id, form.max_new_tokens)


def _decode(settings: Settings, body: SegmentBody) -> SegmentInput:
    refuse_unknown_fields = settings.unknown_fields == "refuse"
    return decode_segment_input(
        body, max_image_bytes=settings.max_image_bytes, refuse_unknown_fields=refuse_unknown_fields
    )


async def _answer(call: Call, received: SegmentInput) -> Response:
    segmentation = await call.ask(question_of(received.form), await image_of(call, received))
    body = await call.in_encoder(lambda: _encode(call, received.form, segmentation))
    return Response(body, media_type=JSON_TYPE)


def _encode(call: Call, form: SegmentForm, segmentation: Segmentation) -> bytes:
    with call.record.phase("encode"):
        response = build_response(
            form, segmentation, call.record, default_model_id=call.settings.model_id, checkpoint=call.checkpoint
        )
    response.timings_ms = call.record.timings_ms
    return response.model_dump_json().encode()
