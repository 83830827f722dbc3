"""Builds the body of an answer. This is CPU work; it runs in a thread."""

from collections.abc import Callable

from gateway.answers.encoding import png_base64
from gateway.answers.masks import encode_mask
from gateway.answers.overlay import draw_overlay
from gateway.answers.segmentation import Segmentation, SegmentedObject
from gateway.answers.spaces import Space
from gateway.schemas import ImageSize, Mask, SegmentForm, SegmentResponse, TargetEnd
from gateway.watching.record import RequestRecord


def build_response(
    form: SegmentForm,
    segmentation: Segmentation,
    record: RequestRecord,
    *,
    default_model_id: str,
    checkpoint: Callable[[], object],
) -> SegmentResponse:
    """Builds the answer, without its timings.

    Args:
        form: the request's fields.
        segmentation: Triton's result.
        record: gives the request's id.
        default_model_id: the model's id if the request names none.
        checkpoint: called before each object; raises if the request was cancelled or its time is up.
    """
    masks = build_masks(form, segmentation, checkpoint)
    return response_with(masks, form, segmentation, record, default_model_id=default_model_id)


def build_masks(form: SegmentForm, segmentation: Segmentation, checkpoint: Callable[[], object]) -> list[Mask]:
    """Encodes the objects that the request wants; `checkpoint` is called before each."""
    space = Space.of(form.coordinate_space, segmentation)
    masks = []
    for found in _wanted(form, segmentation):
        checkpoint()
        masks.append(_mask(found, form, space))
    return masks


def response_with(
    masks: list[Mask], form: SegmentForm, segmentation: Segmentation, record: RequestRecord, *, default_model_id: str
) -> SegmentResponse:
    """Builds the answer around masks that are encoded already, without its timings."""
    original_height, original_width = segmentation.original_hw
    overlay = None
    if form.overlay:
        overlay = png_base64(draw_overlay(segmentation.input_image, _wanted(form, segmentation)))
    return SegmentResponse(
        image=png_base64(segmentation.input_image) if form.return_image else None,
        masks=masks,
        targets=[TargetEnd(target=target.text, finish_reason=target.finish_reason) for target in segmentation.targets],
        text=segmentation.text,
        model_id=form.model_id or default_model_id,
        image_size=ImageSize(width=original_width, height=original_height),
        timings_ms={},
        request_id=record.request_id,
        overlay=overlay,
    )


def _wanted(form: SegmentForm, segmentation: Segmentation) -> list[SegmentedObject]:
    return [found for found in segmentation.objects if found.score >= form.min_score]


def _mask(found: SegmentedObject, form: SegmentForm, space: Space) -> Mask:
    return Mask(
        mask=encode_mask(found, form.mask_format, space),
        coordinates=list(space.coordinates(found.box_xyxy)),
        label=found.label,
        score=round(found.score, 4),
        mask_score=None if found.mask_score is None else round(found.mask_score, 4),
        target=found.target,
    )
