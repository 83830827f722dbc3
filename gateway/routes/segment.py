"""POST /segment."""

import time
from typing import Any, Final

from anyio import to_thread
from fastapi import APIRouter, Request

from gateway.encoding import pixel_coordinates, png_base64, soft_mask
from gateway.inputs import FORM_TYPES, JSON_TYPE, SegmentInput, read_segment_input
from gateway.overlay import draw_overlay
from gateway.prompts import with_task
from gateway.schemas import Error, ImageSize, Mask, SegmentForm, SegmentResponse
from gateway.segmentation import Segmentation, SegmentedObject
from gateway.settings import Settings
from gateway.triton import SegmentRequest, TritonSegmenter

router = APIRouter()

ERROR_STATUSES: Final = (400, 403, 404, 413, 415, 422, 502, 503, 504)


def _request_schema() -> dict[str, Any]:
    """What the body may be; declared by hand, since one body comes in three media types."""
    fields = SegmentForm.model_json_schema()
    url = {"type": "string", "description": "A data: URL of the image."}
    upload = {"type": "string", "format": "binary", "description": "The image, any common format."}

    def body(images: dict[str, Any]) -> dict[str, Any]:
        return {"schema": {**fields, "properties": {**images, **fields["properties"]}}}

    forms = {FORM_TYPES[0]: body({"image_file": upload, "image_url": url}), FORM_TYPES[1]: body({"image_url": url})}
    return {"requestBody": {"required": True, "content": {**forms, JSON_TYPE: body({"image_url": url})}}}


@router.post(
    "/segment",
    summary="Find what a prompt asks for in an image",
    responses={status: {"model": Error} for status in ERROR_STATUSES},
    openapi_extra=_request_schema(),
)
@router.post("/segment/", include_in_schema=False)
async def segment(request: Request) -> SegmentResponse:
    """Masks, boxes, labels and scores of what the prompt names; `masks` is empty where there is nothing of it."""
    started = time.perf_counter()
    settings: Settings = request.app.state.settings
    segmenter: TritonSegmenter = request.app.state.segmenter
    request_id: str = request.scope["request_id"]
    received = await read_segment_input(request, max_image_bytes=settings.max_image_bytes)
    asked = time.perf_counter()
    segmentation = await segmenter.segment(_to_triton(received, settings, request_id))
    answered = time.perf_counter()
    response = await to_thread.run_sync(_build_response, received.form, segmentation, settings, request_id)
    ended = time.perf_counter()
    phases_s = {"receive": asked - started, "inference": answered - asked, "encode": ended - answered}
    response.timings_ms = {phase: round(seconds * 1e3, 2) for phase, seconds in phases_s.items()}
    return response


def _to_triton(received: SegmentInput, settings: Settings, request_id: str) -> SegmentRequest:
    return SegmentRequest(
        image=received.image,
        prompt=with_task(received.form.prompt),
        model_id=received.form.model_id,
        max_new_tokens=received.form.max_new_tokens,
        timeout_s=settings.request_timeout_s,
        request_id=request_id,
    )


def _build_response(
    form: SegmentForm, segmentation: Segmentation, settings: Settings, request_id: str
) -> SegmentResponse:
    height, width = segmentation.input_image.shape[:2]
    original_height, original_width = segmentation.original_hw
    kept = [found for found in segmentation.objects if found.score >= form.min_score]
    return SegmentResponse(
        image=png_base64(segmentation.input_image) if form.return_image else None,
        masks=[_mask(found, width=width, height=height) for found in kept],
        text=segmentation.text,
        model_id=form.model_id or settings.model_id,
        image_size=ImageSize(width=original_width, height=original_height),
        timings_ms={},
        request_id=request_id,
        overlay=png_base64(draw_overlay(segmentation.input_image, kept)) if form.overlay else None,
    )


def _mask(found: SegmentedObject, *, width: int, height: int) -> Mask:
    return Mask(
        mask=None if found.mask_logits is None else png_base64(soft_mask(found.mask_logits)),
        coordinates=pixel_coordinates(found.box_xyxy, width=width, height=height),
        label=found.label,
        score=round(found.score, 4),
        mask_score=None if found.mask_score is None else round(found.mask_score, 4),
    )
