"""Other tools' protocols over the real stack: the same objects as from /segment."""

import base64
from typing import Any

import httpx2
import pycocotools.mask
import pytest
from stack import DEMO_MODEL_ID

TEXTS = ("blue star", "cyan ring")


@pytest.fixture(scope="module")
def client(stack: Any) -> Any:
    with httpx2.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def segmented(client: Any, sample_image: bytes) -> Any:
    """What /segment says of the same prompts."""
    fields = {"prompt": f"segment {' ; '.join(TEXTS)}", "mask_format": "rle", "coordinate_space": "original"}
    response = client.post("/segment", data=fields, files={"image_file": sample_image})
    assert response.status_code == 200, response.text
    masks = response.json()["masks"]
    assert [mask["label"] for mask in masks] == list(TEXTS)
    return masks


def test_x_anylabeling(client: Any, sample_image: bytes, segmented: Any) -> None:
    listed = client.get("/v1/models", headers={"Token": ""}).json()
    assert listed["success"] is True and list(listed["data"]) == [DEMO_MODEL_ID]
    described = client.get(f"/v1/models/{DEMO_MODEL_ID}/info").json()
    assert described["data"] == {"model_id": DEMO_MODEL_ID, **listed["data"][DEMO_MODEL_ID]}
    assert client.get("/v1/models/none/such/info").json()["error"]["code"] == "MODEL_NOT_FOUND"
    image = f"data:image/png;base64,{base64.b64encode(sample_image).decode()}"
    body = {"model": DEMO_MODEL_ID, "image": image, "params": {"text_prompt": ",".join(TEXTS)}}
    shapes = client.post("/v1/predict", json=body).json()["data"]["shapes"]
    assert [(shape["label"], shape["score"]) for shape in shapes] == [
        (mask["label"], mask["score"]) for mask in segmented
    ]
    for shape, mask in zip(shapes, segmented, strict=True):
        x_min, y_min, x_max, y_max = mask["coordinates"]
        assert all(x_min - 1 <= x <= x_max + 1 and y_min - 1 <= y <= y_max + 1 for x, y in shape["points"])


def test_an_unknown_model_for_x_anylabeling(client: Any) -> None:
    response = client.post(
        "/v1/predict", json={"model": "none/such", "image": "QUJD", "params": {"text_prompt": "cat"}}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (200, "MODEL_NOT_FOUND")


def test_sam3(client: Any, sample_image: bytes, segmented: Any) -> None:
    body = {
        "image": {"type": "base64", "value": base64.b64encode(sample_image).decode()},
        "prompts": [{"type": "text", "text": text} for text in TEXTS],
        "output_prob_thresh": 0.0,
        "format": "rle",
        "model_id": "sam3/sam3_final",
    }
    results = client.post("/sam3/concept_segment", json=body).json()["prompt_results"]
    found = [result["predictions"] for result in results]
    assert [[each["masks"] for each in predictions] for predictions in found] == [[mask["mask"]] for mask in segmented]
    assert pycocotools.mask.decode(found[0][0]["masks"]).sum() > 5000
