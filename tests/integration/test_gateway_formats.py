"""What clients can ask for beyond the first contract, and image URLs, over the real stack."""

import asyncio
import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pycocotools.mask
import pytest
import requests
from PIL import Image
from stack import answers_200, free_ports, gateway, wait_until
from web import SITE, reply, site

PROMPT = "segment blue star"


@pytest.fixture(scope="module")
def client(stack: Any) -> Any:
    with httpx2.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        yield client


def found(client: Any, image: bytes, **fields: str) -> Any:
    response = client.post("/segment", data={"prompt": PROMPT, **fields}, files={"image_file": image})
    assert response.status_code == 200, response.text
    (one,) = response.json()["masks"]
    return one


def decode(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


@pytest.mark.parametrize(
    ("space", "size"), [("input", (224, 224)), ("original", (640, 480)), ("normalized", (224, 224))]
)
def test_masks_lie_in_their_boxes(client: Any, sample_image: bytes, space: str, size: tuple[int, int]) -> None:
    width, height = size
    full = found(client, sample_image, mask_format="full", coordinate_space=space)
    mask = decode(full["mask"])
    assert (mask.shape, mask.dtype) == ((height, width), np.bool_)
    scale = (width, height) * 2 if space == "normalized" else (1, 1, 1, 1)
    x_min, y_min, x_max, y_max = (
        round(value * factor) for value, factor in zip(full["coordinates"], scale, strict=True)
    )
    assert mask[y_min:y_max, x_min:x_max].sum() == mask.sum() > 0
    run_lengths = found(client, sample_image, mask_format="rle", coordinate_space=space)["mask"]
    assert run_lengths["size"] == [height, width]
    np.testing.assert_array_equal(pycocotools.mask.decode(run_lengths).astype(bool), mask)
    for ring in found(client, sample_image, mask_format="polygon", coordinate_space=space)["mask"]:
        points = np.array(ring) * (scale[:2] if space == "normalized" else 1)
        assert (points.min(0) >= (x_min - 1, y_min - 1)).all() and (points.max(0) <= (x_max + 1, y_max + 1)).all()


def test_the_mask_is_where_the_object_is(client: Any, sample_image: bytes) -> None:
    """In the user's own picture, whose pixels under the mask are blue."""
    mask = decode(found(client, sample_image, mask_format="full", coordinate_space="original")["mask"])
    pixels = np.asarray(Image.open(io.BytesIO(sample_image)).convert("RGB")).astype(int)[mask]
    blue = (pixels[:, 2] > pixels[:, 0] + 60) & (pixels[:, 2] > pixels[:, 1] + 60)
    assert blue.mean() > 0.7


def test_boxes_agree_between_spaces(client: Any, sample_image: bytes) -> None:
    shares = np.array(found(client, sample_image, coordinate_space="normalized")["coordinates"])
    assert ((shares >= 0) & (shares <= 1)).all()
    for space, size in (("input", (224, 224)), ("original", (640, 480))):
        box = found(client, sample_image, coordinate_space=space)["coordinates"]
        assert box == [round(value) for value in (shares * (size * 2)).tolist()]


@pytest.mark.parametrize("mask_format", ["crop", "full", "rle", "polygon"])
def test_a_detected_object_has_no_mask(client: Any, sample_image: bytes, mask_format: str) -> None:
    one = found(client, sample_image, prompt="detect blue star", mask_format=mask_format)
    assert (one["mask"], one["mask_score"]) == (None, None)


@pytest.mark.parametrize(
    "fields", [{"mask_format": "png"}, {"mask_format": "CROP"}, {"coordinate_space": "pixels"}, {"return_image": "2"}]
)
def test_unknown_options(client: Any, sample_image: bytes, fields: dict[str, str]) -> None:
    response = client.post("/segment", data={"prompt": PROMPT, **fields}, files={"image_file": sample_image})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.fixture(scope="module")
def opened_url(stack: Any) -> Iterator[str]:
    """A second gateway, which may fetch from one address of this machine."""
    (port,) = free_ports(1)
    with gateway(stack.ports, GATEWAY_PORT=str(port), URL_FETCH_ALLOWED_NETWORKS=f"{SITE}/32"):
        wait_until(lambda: answers_200(f"http://127.0.0.1:{port}/readyz"), 20, "gateway ready")
        yield f"http://127.0.0.1:{port}"


def test_an_image_by_url(opened_url: str, sample_image: bytes) -> None:
    """As clients of the reference service ask."""
    answers = {"/a.png": reply(sample_image), "/b?token=1": reply(status="302 F", location="/a.png")}

    async def run() -> Any:
        async with site(answers) as served:
            data = {"prompt": PROMPT, "image_url": served.url("/b?token=1", host=SITE)}
            return await asyncio.to_thread(requests.post, f"{opened_url}/segment", data=data, timeout=60)

    response = asyncio.run(run())
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [one["label"] for one in answer["masks"]] == ["blue star"]
    assert set(answer["timings_ms"]) == {"receive", "fetch", "inference", "encode"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "does-not-exist.invalid"])
def test_an_image_by_a_url_that_is_not_public(opened_url: str, client: Any, host: str) -> None:
    for url in (opened_url, ""):
        response = client.post(f"{url}/segment", data={"prompt": PROMPT, "image_url": f"http://{host}:8080/"})
        assert (response.status_code, response.json()["code"]) == (400, "fetch_failed")


def test_urls_can_be_switched_off(stack: Any) -> None:
    (port,) = free_ports(1)
    with gateway(stack.ports, GATEWAY_PORT=str(port), URL_FETCH="off"):
        wait_until(lambda: answers_200(f"http://127.0.0.1:{port}/healthz"), 20, "gateway alive")
        data = {"prompt": PROMPT, "image_url": "https://example.org/a.png"}
        response = httpx2.post(f"http://127.0.0.1:{port}/segment", data=data, trust_env=False)
        assert (response.status_code, response.json()["code"]) == (400, "invalid_url")
