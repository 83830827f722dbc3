"""The body of an answer: which target an object belongs to, and whether its answer is whole."""

import numpy as np

from gateway.answers.response import build_response
from gateway.answers.segmentation import Segmentation, SegmentedObject, Target
from gateway.schemas import SegmentForm
from gateway.watching.record import RequestRecord


def test_every_object_names_its_target_and_every_target_its_end() -> None:
    """An answer that was cut off looked whole."""
    mask, box = np.ones((64, 64), np.float32), (0.1, 0.1, 0.9, 0.9)
    objects = [
        SegmentedObject(box, "cat", score, mask, 0.5, target) for score, target in ((0.9, 0), (0.2, 1), (0.8, 1))
    ]
    segmentation = Segmentation(
        objects, [Target("cat", "eos"), Target("dog", "length")], "", np.zeros((8, 8, 3), np.uint8), (8, 8)
    )
    response = build_response(
        SegmentForm(prompt="segment cat ; dog", min_score=0.5),
        segmentation,
        RequestRecord("id"),
        default_model_id="model",
        checkpoint=lambda: None,
    ).model_dump()
    assert [found["target"] for found in response["masks"]] == [0, 1]
    assert response["targets"] == [
        {"target": "cat", "finish_reason": "eos"},
        {"target": "dog", "finish_reason": "length"},
    ]
