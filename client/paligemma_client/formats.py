"""Answers in the types of other libraries, which are imported only when they are asked for."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from paligemma_client.objects import FoundObject, Result


def to_supervision(result: "Result") -> Any:
    """`supervision.Detections` with boxes, masks, scores, and the category as `class_name`.

    `class_id` counts the categories of this picture from 0, in the order of their first object. Objects without a mask
    have an empty one where others have one.
    """
    supervision = import_module("supervision")
    objects = result.objects
    if not objects:
        return supervision.Detections.empty()
    names = [found.category for found in objects]
    ids = {name: index for index, name in enumerate(dict.fromkeys(names))}
    empty = np.zeros((result.height, result.width), np.bool_)
    masks = [found.mask for found in objects]
    return supervision.Detections(
        xyxy=np.array([found.box_xyxy for found in objects], np.float32),
        mask=np.stack([empty if mask is None else mask for mask in masks])
        if any(mask is not None for mask in masks)
        else None,
        confidence=np.array([found.score for found in objects], np.float32),
        class_id=np.array([ids[name] for name in names], np.int64),
        data={"class_name": np.array(names)},
    )


def to_fiftyone(result: "Result") -> Any:
    """`fiftyone.Detections`: boxes as shares of the picture, masks within their boxes."""
    fiftyone = import_module("fiftyone")
    detections = []
    for found in result.objects:
        x_min, y_min, x_max, y_max = found.box_xyxy
        mask = found.mask
        detections.append(
            fiftyone.Detection(
                label=found.category,
                confidence=found.score,
                bounding_box=[
                    x_min / result.width,
                    y_min / result.height,
                    (x_max - x_min) / result.width,
                    (y_max - y_min) / result.height,
                ],
                mask=None if mask is None else mask[y_min:y_max, x_min:x_max],
            )
        )
    return fiftyone.Detections(detections=detections)


def to_coco(
    objects: Sequence["FoundObject"], *, image_id: int, category_ids: Mapping[str, int], first_id: int = 1
) -> list[dict[str, Any]]:
    """COCO's annotations, with the scores that its result files have; ids count up from `first_id`.

    Objects without a mask have an empty `segmentation`, as COCO's boxes-only files have.
    """
    annotations = []
    for annotation_id, found in enumerate(objects, start=first_id):
        x_min, y_min, x_max, y_max = found.box_xyxy
        annotation = {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": category_ids[found.category],
            "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
            "area": found.area_px,
            "segmentation": [] if found.run_lengths is None else found.run_lengths,
            "iscrowd": 0,
            "score": found.score,
            "mask_score": found.mask_score,
        }
        annotations.append(annotation)
    return annotations
