"""Roboflow's SAM 3 route, as `inference_sdk.InferenceHTTPClient.sam3_concept_segment` asks it (inference 3bb973b)."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import pycocotools.mask
from fastapi import APIRouter, Request, Response

from gateway.answers.masks import encode_mask
from gateway.answers.outlines import outer_rings
from gateway.answers.segmentation import Segmentation, SegmentedObject
from gateway.answers.spaces import Space
from gateway.call import Call
from gateway.dialects.sam3_schemas import ConceptAnswer, ConceptRequest, Echo, Prediction, Prompt, PromptResult
from gateway.dialects.targets import ask_targets
from gateway.documentation import EXAMPLE_IMAGE, error_responses, json_body
from gateway.door.access import admit, admit_by_head
from gateway.errors import ApiError
from gateway.inputs.decoding import JSON_TYPE, Fields
from gateway.inputs.prompts import TARGET_SEPARATOR
from gateway.inputs.read import Received, check_fields, decode_dialect_body, read_image_text
from gateway.routes.segment import image_of
from gateway.schemas import Ring, RunLengths
from gateway.settings import Settings

ORIGINAL_MODELS: Final = "sam3/"  # ids with this prefix mean the server's default model
KEY_FIELD: Final = "api_key"  # in the query and in the body
MIN_CORNERS: Final = 3


@dataclass(frozen=True, slots=True)
class Concept:
    """A request's fields and prompts.

    Attributes:
        texts: the prompts; an object's `target` is an index of it.
        min_scores: for each prompt.
    """

    form: ConceptRequest
    texts: tuple[str, ...]
    min_scores: tuple[float, ...]


_IMAGE_SCHEMA: Final = {
    "type": "object",
    "required": ["type", "value"],
    "properties": {
        "type": {"type": "string", "enum": ["base64", "url"]},
        "value": {"type": "string", "description": "The image as base64, or its URL."},
    },
}
_EXAMPLE: Final = {
    "image": {"type": "base64", "value": EXAMPLE_IMAGE.partition(",")[2]},
    "prompts": [{"type": "text", "text": "blue square"}, {"type": "text", "text": "red circle"}],
    "format": "polygon",
    "output_prob_thresh": 0.0,
}

router = APIRouter(prefix="/sam3", tags=["SAM 3"])


@router.post(
    "/concept_segment",
    summary="Masks of what texts name, as Roboflow's inference answers for SAM 3",
    response_model=ConceptAnswer,
    responses=error_responses(),
    openapi_extra=json_body(ConceptRequest, _IMAGE_SCHEMA, _EXAMPLE),
)
async def concept_segment(request: Request) -> Response:
    """The objects that each prompt names, with outlines or run lengths."""
    call = Call.begin(request)
    received = await _receive(call)
    return await call.answered(lambda: _answer(call, received))


def without_duplicates(found: list[SegmentedObject], max_iou: float, space: Space) -> list[SegmentedObject]:
    """Removes objects whose mask overlaps a better one's by more than this IoU; keeps the order.

    Args:
        found: objects with masks.
        max_iou: in [0, 1].
        space: masks are compared in its pixels.
    """
    by_score = sorted(range(len(found)), key=lambda index: -found[index].score)
    masks = [_run_lengths(found[index], space).model_dump() for index in by_score]
    overlaps = np.reshape(pycocotools.mask.iou(masks, masks, [0] * len(masks)), (len(masks), len(masks)))
    kept: list[int] = []
    for place in range(len(masks)):
        if not (overlaps[place, kept] > max_iou).any():
            kept.append(place)
    return [found[index] for index in sorted(by_score[place] for place in kept)]


def whole_pixels(ring: Ring, space: Space) -> list[tuple[int, int]]:
    """Returns the open outline through the centres of the outermost pixels, as OpenCV fills polygons."""
    corners = [
        (min(max(round(x - 0.5), 0), space.width - 1), min(max(round(y - 0.5), 0), space.height - 1))
        for x, y in ring[:-1]
    ]
    return [corner for corner, before in zip(corners, [corners[-1], *corners], strict=False) if corner != before]


async def _receive(call: Call) -> Received[Concept]:
    """The request; without a valid key, nothing of its body is decoded but the JSON around the image."""
    is_admitted = await admit_by_head(call.request, call.request.query_params.get(KEY_FIELD))
    fields = await call.receive(lambda body: decode_dialect_body(body, ("image", "value")))
    if not is_admitted:
        key = fields.get(KEY_FIELD)
        admit(call.request, key if isinstance(key, str) else None)
    return await call.in_decoder(partial(_decode, call.settings, fields))


def _decode(settings: Settings, fields: Fields) -> Received[Concept]:
    image = fields.pop("image", None)
    form = check_fields(ConceptRequest, fields)
    texts = tuple(_text_of(index, prompt) for index, prompt in enumerate(form.prompts))
    thresholds = (prompt.output_prob_thresh for prompt in form.prompts)
    min_scores = tuple(form.output_prob_thresh if score is None else score for score in thresholds)
    return _with_image(Concept(form, texts, min_scores), image, settings.max_image_bytes)


def _text_of(index: int, prompt: Prompt) -> str:
    if prompt.boxes or prompt.type not in (None, "text"):
        raise ApiError("invalid_prompt", f"prompts.{index}: the model understands text only; send a text without boxes")
    text = (prompt.text or "").strip()
    if not text or TARGET_SEPARATOR in text:
        raise ApiError(
            "invalid_prompt", f"prompts.{index}: name one kind of object in text, without {TARGET_SEPARATOR}"
        )
    return text


def _with_image(form: Concept, image: Any, max_image_bytes: int) -> Received[Concept]:
    match image:
        case {"type": "base64", "value": str() | memoryview() as value}:
            return Received(form, image=read_image_text(value, max_image_bytes))
        case {"type": "url", "value": str() as value} if value[:5].lower() != "data:":
            return Received(form, image_url=value)
        case {"type": "url", "value": str() | memoryview() as value}:
            return Received(form, image=read_image_text(value, max_image_bytes))
        case _:
            message = 'send one image: {"type": "base64", "value": ...} or {"type": "url", "value": ...}'
            raise ApiError("missing_image", message)


async def _answer(call: Call, received: Received[Concept]) -> Response:
    concept = received.form
    model_id = _model_id(call.settings, concept.form.model_id)
    segmentation = await ask_targets(call, concept.texts, await image_of(call, received), model_id=model_id)
    body = await call.in_encoder(lambda: _encode(call, concept, segmentation))
    return Response(body, media_type=JSON_TYPE)


def _model_id(settings: Settings, name: str | None) -> str | None:
    is_default = name is None or name.startswith(ORIGINAL_MODELS) or name == settings.model_id
    return None if is_default else name


def _encode(call: Call, concept: Concept, segmentation: Segmentation) -> str:
    space = Space.of("original", segmentation)
    with call.record.phase("encode"):
        found = [
            each
            for each in segmentation.objects
            if each.mask_logits is not None and each.score >= concept.min_scores[each.target]
        ]
        if found and concept.form.nms_iou_threshold is not None:
            found = without_duplicates(found, concept.form.nms_iou_threshold, Space.of("input", segmentation))
        results = [
            PromptResult(prompt_index=index, echo=Echo(prompt_index=index, text=text), predictions=[])
            for index, text in enumerate(concept.texts)
        ]
        for each in found:
            call.checkpoint()
            prediction = _prediction(each, space, concept.form.format)
            if prediction is not None:
                results[each.target].predictions.append(prediction)
    seconds = time.perf_counter() - call.record.started
    return ConceptAnswer(prompt_results=results, time=round(seconds, 4)).model_dump_json()


def _prediction(found: SegmentedObject, space: Space, mask_format: Literal["polygon", "rle"]) -> Prediction | None:
    """Returns None for an object with an empty mask."""
    if mask_format == "rle":
        run_lengths = _run_lengths(found, space)
        is_empty = pycocotools.mask.area(run_lengths.model_dump()) == 0
        return None if is_empty else Prediction(masks=run_lengths, confidence=found.score, format="rle")
    rings = encode_mask(found, "polygon", space)
    assert isinstance(rings, list)
    outlines = [whole_pixels(ring, space) for ring in outer_rings(rings)]
    outlines = [outline for outline in outlines if len(outline) >= MIN_CORNERS]
    return Prediction(masks=outlines, confidence=found.score, format="polygon") if outlines else None


def _run_lengths(found: SegmentedObject, space: Space) -> RunLengths:
    run_lengths = encode_mask(found, "rle", space)
    assert isinstance(run_lengths, RunLengths)
    return run_lengths
