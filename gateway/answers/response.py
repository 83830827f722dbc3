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
    original_height, original_width = segmentation.original_hw
    kept = [found for found in segmentation.objects if found.score >= form.min_score]
    space = Space.of(form.coordinate_space, segmentation)
    masks = []
    for found in kept:
        checkpoint()
        masks.append(_mask(found, form, space))
    return SegmentResponse(
        image=png_base64(segmentation.input_image) if form.return_image else None,
        masks=masks,
        targets=[TargetEnd(target=target.text, finish_reason=target.finish_reason) for target in segmentation.targets],
        text=segmentation.text,
        model_id=form.model_id or default_model_id,
        image_size=ImageSize(width=original_width, height=original_height),
        timings_ms={},
        request_id=record.request_id,
        overlay=png_base64(draw_overlay(segmentation.input_image, kept)) if form.overlay else None,
    )


def _mask(found: SegmentedObject, form: SegmentForm, space: Space) -> Mask:
    return Mask(
        mask=encode_mask(found, form.mask_format, space),
        coordinates=list(space.coordinates(found.box_xyxy)),
        label=found.label,
        score=round(found.score, 4),
        mask_score=None if found.mask_score is None else round(found.mask_score, 4),
        target=found.target,
    )
