"""The function file for CVAT, judged by CVAT's own SDK."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cvat_sdk.auto_annotation.driver import _AnnotationMapper
from cvat_sdk.masks import decode_mask
from PIL import Image
from scripted_gateway import ScriptedGateway, answer, scripted_gateway

from paligemma_client import masks
from paligemma_client.cvat import Label, SegmentFunction, create, read_labels

PARTS = np.zeros((6, 8), np.bool_)
PARTS[1:3, 1:3] = PARTS[4:6, 5:8] = True
OBJECT = {"mask": masks.encode(PARTS), "coordinates": [1, 1, 8, 6], "label": "x", "score": 0.9, "mask_score": 0.8}
EMPTY = {**OBJECT, "mask": masks.encode(np.zeros((6, 8), np.bool_))}
IMAGE = Image.new("RGB", (8, 6))


@dataclass
class Context:
    frame_name: str = "frame"
    conf_threshold: float | None = None
    conv_mask_to_poly: bool = False


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with scripted_gateway(segment=[answer([OBJECT, EMPTY])]) as gateway:
        yield gateway


def accepted(function: SegmentFunction, context: Any, kind: str) -> list[Any]:
    """What CVAT's driver makes of an answer, in a task with the labels cat (71) and wheel (72)."""
    labels = [
        SimpleNamespace(name=name, id=number, type=kind, attributes=[], sublabels=[])
        for name, number in (("cat", 71), ("wheel", 72))
    ]
    mapper = _AnnotationMapper(
        logging.getLogger("test"),
        function.spec.labels,
        labels,  # type: ignore[arg-type]
        allow_unmatched_labels=False,
        conv_mask_to_poly=context.conv_mask_to_poly,
    )
    with contextlib.closing(function):
        shapes = function.detect(context, IMAGE)
    mapper.validate_and_remap(shapes, 5)
    assert {shape.frame for shape in shapes} == {5}
    return list(shapes)


def test_masks(gateway: ScriptedGateway) -> None:
    function = create("cat=tabby cat; wheel", server=gateway.url)
    shapes = accepted(function, Context(conf_threshold=0.4), "mask")
    assert sorted(shape.label_id for shape in shapes) == [71, 72]
    for shape in shapes:
        assert np.array_equal(decode_mask(shape.points, image_width=8, image_height=6), PARTS)
    bodies = sorted(gateway.bodies(), key=len)
    assert ["segment wheel\r\n" in bodies[0], "segment tabby cat\r\n" in bodies[1]] == [True, True]
    assert all('name="min_score"\r\n\r\n0.4\r\n' in body for body in bodies)


@pytest.mark.parametrize(("shape", "convert"), [("mask", True), ("polygon", False)])
def test_polygons(gateway: ScriptedGateway, shape: str, convert: bool) -> None:
    function = create("cat;wheel", server=gateway.url, shape=shape)
    shapes = accepted(function, Context(conv_mask_to_poly=convert), "polygon")
    assert [(found.type.value, found.label_id) for found in shapes] == [("polygon", 71)] * 2 + [("polygon", 72)] * 2
    assert shapes[0].group == shapes[1].group != shapes[2].group == shapes[3].group
    assert shapes[0].points == [1, 1, 3, 1, 3, 3, 1, 3]


def test_rectangles(gateway: ScriptedGateway) -> None:
    shapes = accepted(create("cat;wheel", server=gateway.url, shape="rectangle"), Context(), "rectangle")
    assert [found.points for found in shapes[:2]] == [[1, 1, 8, 6]] * 2
    assert all("detect " in body for body in gateway.bodies())


def test_labels() -> None:
    assert read_labels("cat = tabby cat ;; left wheel") == [
        Label("cat", "tabby cat"),
        Label("left wheel", "left wheel"),
    ]
    for wrong in ("", "; ", "cat;cat"):
        with pytest.raises(ValueError, match="each label once"):
            read_labels(wrong)
    with pytest.raises(ValueError, match="shape must be"):
        create("cat", shape="ellipse")
