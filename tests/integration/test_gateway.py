"""The REST API over the real stack."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest
import requests
from PIL import Image
from stack import REPOSITORY


@pytest.fixture(scope="module")
def client(stack: Any) -> Any:
    with httpx2.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        yield client


def decode(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def post(client: Any, image: bytes, prompt: str, **fields: str) -> Any:
    files = {"image_file": ("sample.png", image, "image/jpeg")}  # the type that clients claim does not matter
    return client.post("/segment", data={"prompt": prompt, **fields}, files=files)


def test_the_first_contract(client: Any, sample_image: bytes) -> None:
    """What clients of the reference service rely on."""
    response = post(client, sample_image, "segment blue star")
    assert response.status_code == 200
    answer = response.json()
    image = decode(answer["image"])
    assert (image.format, image.size, image.mode) == ("PNG", (224, 224), "RGB")
    (found,) = answer["masks"]
    mask = decode(found["mask"])
    assert (mask.format, mask.size, mask.mode) == ("PNG", (64, 64), "L")
    assert all(isinstance(value, int) for value in found["coordinates"])
    x_min, y_min, x_max, y_max = found["coordinates"]
    assert 0 <= x_min < x_max <= 224 and 0 <= y_min < y_max <= 224


def test_client_code_of_the_reference_service(stack: Any) -> None:
    """As it was published, with a PNG that is sent as a JPEG."""
    assert requests.get(stack.url, timeout=60).json() == {"message": "Welcome to the PaliGemma Segmentation API!"}
    url = f"{stack.url}/segment/"
    with (REPOSITORY / "docs" / "sample.png").open("rb") as image_file:
        files = {"image_file": ("sample.jpg", image_file, "image/jpeg")}
        response = requests.post(url, data={"prompt": "segment blue star"}, files=files, timeout=60)
    assert response.status_code == 200
    answer = response.json()
    assert decode(answer["image"]).size == (224, 224)
    assert len(answer["masks"]) == 1 and set(answer["masks"][0]) >= {"mask", "coordinates"}


def test_the_answer_is_tritons(client: Any, stack: Any, sample_image: bytes) -> None:
    answer = post(client, sample_image, "segment blue star ; cyan ring").json()
    direct = stack.ask("grpc", sample_image, "segment blue star ; cyan ring")
    assert [found["label"] for found in answer["masks"]] == ["blue star", "cyan ring"]
    assert answer["text"] == direct["text"][0].decode()
    assert [found["target"] for found in answer["masks"]] == direct["target"].tolist() == [0, 1]
    np.testing.assert_array_equal(np.asarray(decode(answer["image"])), direct["input_image"])
    for found, box, scores, mask in zip(
        answer["masks"], direct["boxes"], direct["scores"], direct["masks"], strict=True
    ):
        assert found["coordinates"] == [round(float(value) * 224) for value in box]
        assert found["score"] == pytest.approx(float(scores[0]), abs=1e-4)
        assert found["mask_score"] == pytest.approx(float(scores[1]), abs=1e-4)
        expected = np.clip(mask * 0.5 + 0.5, 0, 1) * 255
        assert np.abs(np.asarray(decode(found["mask"])).astype(float) - expected).max() <= 0.5 + 1e-3


def test_the_other_fields(client: Any, sample_image: bytes) -> None:
    response = client.post(
        "/segment/",
        data={"prompt": "blue star", "overlay": "true", "return_image": "false"},
        files={"image_file": sample_image},
        headers={"X-Request-ID": "my-id.7"},
    )
    answer = response.json()
    assert answer["model_id"] == "paligemma2-demo-224"
    assert answer["image_size"] == {"width": 640, "height": 480}
    assert answer["request_id"] == response.headers["X-Request-ID"] == "my-id.7"
    assert answer["image"] is None
    assert decode(answer["overlay"]).size == (224, 224)
    assert set(answer["timings_ms"]) == {"receive", "inference", "encode"}


def test_no_object_is_a_success(client: Any, sample_image: bytes) -> None:
    response = post(client, sample_image, "segment red car")
    assert (response.status_code, response.json()["masks"]) == (200, [])


def test_detect_gives_boxes_without_masks(client: Any, sample_image: bytes) -> None:
    (found,) = post(client, sample_image, "detect blue star").json()["masks"]
    assert (found["mask"], found["mask_score"]) == (None, None)
    assert found["score"] > 0


def test_min_score_and_max_new_tokens(client: Any, sample_image: bytes) -> None:
    assert post(client, sample_image, "segment blue star", min_score="0.99").json()["masks"] == []
    cut_off = post(client, sample_image, "segment blue star", max_new_tokens="4").json()
    assert cut_off["masks"][0]["mask"] is None
    assert cut_off["targets"] == [{"target": "blue star", "finish_reason": "length"}]


@pytest.mark.parametrize("media_type", ["json", "urlencoded"])
def test_a_data_url_in_other_bodies(client: Any, sample_image: bytes, media_type: str) -> None:
    fields = {"prompt": "blue star", "image_url": "data:image/png;base64," + base64.b64encode(sample_image).decode()}
    response = client.post("/segment", **({"json": fields} if media_type == "json" else {"data": fields}))
    assert response.status_code == 200
    assert response.json()["masks"][0]["label"] == "blue star"


@pytest.mark.parametrize(
    ("image", "fields", "status", "code"),
    [
        (b"this is no image", {}, 400, "invalid_image"),
        (None, {"prompt": " "}, 422, "invalid_prompt"),
        (None, {"prompt": "segment a;b;c;d;e;f;g;h;i"}, 422, "invalid_prompt"),
        (None, {"model_id": "google/other"}, 403, "model_not_allowed"),
        (None, {"max_new_tokens": "100000"}, 422, "invalid_argument"),
    ],
)
def test_what_triton_refuses(
    client: Any, sample_image: bytes, image: bytes | None, fields: dict[str, str], status: int, code: str
) -> None:
    fields = {"prompt": "segment blue star", **fields}
    response = post(client, image or sample_image, fields.pop("prompt"), **fields)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert set(response.json()) == {"status", "detail", "code", "request_id"}
    assert post(client, sample_image, "segment blue star").status_code == 200


def test_many_at_once_get_their_own_answers(client: Any, sample_image: bytes) -> None:
    prompts = ["blue star", "cyan ring", "yellow heart", "green diamond", "red car", "detect blue star"] * 6
    alone = {prompt: post(client, sample_image, prompt).json() for prompt in set(prompts)}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda prompt: post(client, sample_image, prompt).json(), prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert (answer["text"], answer["masks"]) == (alone[prompt]["text"], alone[prompt]["masks"])


def test_models(client: Any) -> None:
    answer = client.get("/models").json()
    assert answer == {
        "default": "paligemma2-demo-224",
        "allowed": ["google/paligemma*-mix-*"],
        "loaded": ["paligemma2-demo-224"],
        "loading": [],
        "dtypes": {"paligemma2-demo-224": ["float32"]},
    }


def test_probes_and_documentation(client: Any) -> None:
    assert client.get("/").json() == {"message": "Welcome to the PaliGemma Segmentation API!"}
    assert client.get("/healthz").status_code == 200
    assert client.get("/version").json()["triton"].startswith("2.")
    assert client.get("/readyz").status_code == 200
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 200
    assert "/segment" in client.get("/openapi.json").json()["paths"]
