"""POST /segment."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
from anyio import from_thread, to_thread
from fastapi import APIRouter, Request, Response

from gateway.answers.response import build_response
from gateway.answers.segmentation import Segmentation
from gateway.documentation import error_responses, request_body
from gateway.door.bodies import Share, share_of
from gateway.door.deadline import Deadline, time_is_up
from gateway.door.disconnect import while_connected
from gateway.errors import ApiError
from gateway.inputs.decoding import JSON_TYPE
from gateway.inputs.prompts import with_task
from gateway.inputs.read import SegmentInput, decode_segment_input, read_body
from gateway.schemas import SegmentForm, SegmentResponse
from gateway.services import Services, services_of
from gateway.triton.wire import SegmentRequest, serialize_request
from gateway.watching.record import RequestRecord, record_of

T = TypeVar("T")

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
    services, record = services_of(request), record_of(request.scope)
    services.admission.check()
    deadline = Deadline(services.settings.request_timeout_s)
    with record.phase("receive"):
        received = await _receive(request, services, deadline)
    with services.admission.admitted():
        return await while_connected(
            request.receive, lambda: _answer(received, services, record, deadline, share_of(request.scope))
        )


async def _receive(request: Request, services: Services, deadline: Deadline) -> SegmentInput:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            body = await read_body(request)
    except TimeoutError as error:
        raise ApiError("request_timeout", "the request took too long to arrive") from error
    decode = partial(
        decode_segment_input,
        body,
        max_image_bytes=services.settings.max_image_bytes,
        refuse_unknown_fields=services.settings.unknown_fields == "refuse",
    )
    return await while_connected(request.receive, lambda: _in_decoder(decode, services, deadline))


async def _in_decoder(work: Callable[[], T], services: Services, deadline: Deadline) -> T:
    """Work in a thread of the decoders, which is waited for until the deadline; one that has begun keeps its place."""
    try:
        with anyio.fail_after(deadline.remaining_s()):  # unlike asyncio's, it waits for the thread
            return await to_thread.run_sync(work, limiter=services.decoders)
    except TimeoutError as error:
        raise time_is_up() from error


async def _answer(
    received: SegmentInput, services: Services, record: RequestRecord, deadline: Deadline, share: Share
) -> Response:
    # Nothing here holds the image while the answer is awaited; only the request does.
    asked = await _serialize(received, services, record, deadline, share)
    try:
        with record.phase("inference"):
            segmentation = await services.segmenter.segment(asked, timeout_s=deadline.remaining_s())
    except ApiError as error:
        if error.code == "loading":
            error.retry_after_s = await services.catalog.retry_after_s(record.phases_s["inference"], deadline)
        raise
    del asked
    record.sizes["objects"] = len(segmentation.objects)
    body = await to_thread.run_sync(
        _encode, received.form, segmentation, services, record, deadline, limiter=services.encoders
    )
    return Response(body, media_type=JSON_TYPE)


async def _serialize(
    received: SegmentInput, services: Services, record: RequestRecord, deadline: Deadline, share: Share
) -> bytes:
    image = received.take_image()
    if image is None:
        image = await _fetch(received, services, record, deadline, share)
    record.sizes["image_bytes"] = len(image)
    asked = SegmentRequest(
        image=image,
        prompt=with_task(received.form.prompt),
        model_id=received.form.model_id,
        max_new_tokens=received.form.max_new_tokens,
        timeout_s=deadline.remaining_s(),
        request_id=record.request_id,
    )
    return await _in_decoder(partial(serialize_request, asked), services, deadline)


async def _fetch(
    received: SegmentInput, services: Services, record: RequestRecord, deadline: Deadline, share: Share
) -> bytes:
    assert received.image_url is not None
    if services.fetcher is None:
        raise ApiError("invalid_url", "image_url may only be a data: URL here; upload the image as image_file")
    with record.phase("fetch"):
        return await services.fetcher.fetch(
            received.image_url, timeout_s=deadline.remaining_s(), on_received=share.grow
        )


def _encode(
    form: SegmentForm, segmentation: Segmentation, services: Services, record: RequestRecord, deadline: Deadline
) -> bytes:
    def checkpoint() -> None:
        from_thread.check_cancelled()
        deadline.remaining_s()

    with record.phase("encode"):
        default_model_id = services.settings.model_id
        response = build_response(form, segmentation, record, default_model_id=default_model_id, checkpoint=checkpoint)
    response.timings_ms = record.timings_ms
    return response.model_dump_json().encode()
