"""X-AnyLabeling's protocol: requests as its client sends them, and what it reads from the answers."""

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from answering_triton import AnsweringTriton, Thing, answering_triton, disc
from fastapi.testclient import TestClient

from gateway.app import create_app
from gateway.dialects import x_anylabeling
from gateway.dialects.x_anylabeling import split_prompts
from gateway.inputs.prompts import MAX_TARGETS
from gateway.settings import Settings
from paligemma_engine.preparation import prompts as engine_prompts

MODEL = "paligemma2-demo-224"
PICTURE = b"a picture " * 20_000  # more than a form may have beside its image
THINGS = {
    "cat": [Thing(score=0.9), Thing(box=(0.0, 0.0, 0.5, 0.25), score=0.4)],
    "left wheel": [Thing(box=(0.5, 0.5, 1.0, 1.0), mask=disc(hole=0.4))],
    "frame": [Thing(mask=None)],
    "speck": [Thing(mask=disc(radius=-1.0))],
}


@pytest.fixture
def triton() -> Iterator[AnsweringTriton]:
    with answering_triton(lambda target: THINGS.get(target, [])) as triton:
        yield triton


@pytest.fixture
def client(triton: AnsweringTriton) -> Iterator[TestClient]:
    with serving(triton) as client:
        yield client


def serving(triton: AnsweringTriton, **settings: Any) -> TestClient:
    app = create_app(
        Settings(
            triton_grpc_url=triton.address, triton_metrics_url="http://127.0.0.1:1/metrics", model_id=MODEL, **settings
        )
    )
    return TestClient(app, raise_server_exceptions=False)


def request(text: str, *, image: bytes = PICTURE, head: str = "data:image/png;base64,", **params: Any) -> Any:
    """As the client builds it, with its defaults."""
    defaults = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, "filter_classes": []}
    encoded = head + base64.b64encode(image).decode()
    return {"model": MODEL, "image": encoded, "params": {**defaults, "text_prompt": text, **params}}


def shapes(client: TestClient, text: str, **params: Any) -> list[dict[str, Any]]:
    response = client.post("/v1/predict", json=request(text, **params), headers={"Token": ""})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["success"] is True, answer
    assert answer["data"]["replace"] is None  # the client's own switch decides
    return list(answer["data"]["shapes"])


def failure(response: Any, code: str) -> str:
    """What an error says; the picture's shapes stay as they are."""
    answer = response.json()
    assert (response.status_code, answer["success"], answer["error"]["code"]) == (200, False, code)
    assert answer["data"] == {"shapes": [], "description": "", "replace": False}
    return str(answer["error"]["message"])


def test_a_text_becomes_one_question_and_labels_are_the_users(client: TestClient, triton: AnsweringTriton) -> None:
    found = shapes(client, " cat,left wheel. dog ,cat")
    assert [asked["prompt"] for asked in triton.asked] == [b"segment cat ; left wheel ; dog"]
    assert triton.asked[0]["image"] == PICTURE
    assert "model_id" not in triton.asked[0]  # the server's own
    assert [(shape["label"], shape["score"]) for shape in found] == [("cat", 0.9), ("cat", 0.4), ("left wheel", 0.9)]


def test_a_shape_has_the_fields_of_a_label_file(client: TestClient) -> None:
    (shape,) = shapes(client, "left wheel")
    assert set(shape) == {
        *("label", "shape_type", "points", "score", "attributes", "description", "difficult", "direction", "flags"),
        *("group_id", "kie_linking"),
    }
    assert (shape["shape_type"], shape["attributes"], shape["difficult"], shape["direction"]) == (
        "polygon",
        {},
        False,
        0,
    )
    assert shape["points"][0] == shape["points"][-1]


def test_polygons_are_in_pixels_of_the_sent_picture(client: TestClient) -> None:
    """Only the largest outline: the hole is not one."""
    (shape,) = shapes(client, "left wheel")
    points = np.array(shape["points"])
    centre, radii = np.array([480, 360]), 0.8 * np.array([160, 120])  # of a picture of 640x480
    assert np.abs(np.hypot(*((points - centre) / radii).T) - 1).max() < 0.03


def test_the_slider_leaves_out_points(client: TestClient) -> None:
    counts = [len(shapes(client, "left wheel", epsilon_factor=factor)[0]["points"]) for factor in (0, 1e-4, 1e-3, 1e-2)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 100 > counts[2] > counts[3] > 4
    (shape,) = shapes(client, "left wheel", epsilon_factor=1)
    assert len(shape["points"]) == counts[0]  # less than a triangle is no outline


def test_the_threshold_leaves_out_doubtful_objects(client: TestClient) -> None:
    assert [shape["score"] for shape in shapes(client, "cat", conf_threshold=0.5)] == [0.9]


def test_the_task_selects_rectangles(client: TestClient) -> None:
    (shape,) = shapes(client, "left wheel", current_task="rectangles")
    assert (shape["shape_type"], shape["points"]) == (
        "rectangle",
        [[320.0, 240.0], [640.0, 240.0], [640.0, 480.0], [320.0, 480.0]],
    )


@pytest.mark.parametrize("text", ["frame", "speck"])
def test_an_object_without_an_outline_is_a_rectangle(client: TestClient, text: str) -> None:
    (shape,) = shapes(client, text)
    assert shape["shape_type"] == "rectangle"


@pytest.mark.parametrize("head", ["data:image/jpeg;base64,", ""])
def test_pictures_large_and_small(client: TestClient, triton: AnsweringTriton, head: str) -> None:
    for picture in (b"small", PICTURE):
        client.post("/v1/predict", json=request("cat", image=picture, head=head)).raise_for_status()
        assert triton.asked[-1]["image"] == picture


def test_more_prompts_than_a_question_takes(client: TestClient, triton: AnsweringTriton) -> None:
    """They were refused: label lists are often longer than the model's eight."""
    names = [f"thing {number}" for number in range(2 * MAX_TARGETS)] + ["cat", "left wheel"]
    found = shapes(client, ",".join(names))
    assert [asked["prompt"].count(b";") + 1 for asked in triton.asked] == [8, 8, 2]
    assert {asked["image"] for asked in triton.asked} == {PICTURE}
    assert [shape["label"] for shape in found] == ["cat", "cat", "left wheel"]
    response = client.post("/v1/predict", json=request(",".join(map(str, range(65)))))
    assert "65" in failure(response, "INVALID_PROMPT")


def test_the_limit_on_targets_is_the_engines() -> None:
    assert MAX_TARGETS == engine_prompts.MAX_TARGETS


def test_prompts_are_split_as_by_the_original() -> None:
    assert split_prompts("cat, dog.bird\nfish;cat,, .") == ["cat", "dog", "bird", "fish"]


def test_another_model_is_asked_for(client: TestClient, triton: AnsweringTriton) -> None:
    client.post("/v1/predict", json={**request("cat"), "model": "google/other"})
    assert triton.asked[-1]["model_id"] == b"google/other"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"image": "data:image/png;base64,###"}, "INVALID_IMAGE"),
        ({"image": None}, "INVALID_IMAGE"),
        ({"image": 7}, "INVALID_IMAGE"),
        ({"image": base64.b64encode(bytes(400_000)).decode()}, "IMAGE_TOO_LARGE"),
        ({"params": {}}, "INVALID_PROMPT"),
        ({"params": {"text_prompt": " ,. "}}, "INVALID_PROMPT"),
        ({"params": {"text_prompt": "cat", "conf_threshold": 7}}, "INVALID_REQUEST"),
        ({"model": 7}, "INVALID_REQUEST"),
    ],
)
def test_errors_are_answered_in_its_shape(triton: AnsweringTriton, changes: dict[str, Any], code: str) -> None:
    """With status 200 and data: the client removes a picture's shapes for anything else that it gets."""
    with serving(triton, max_image_bytes=300_000) as client:
        failure(client.post("/v1/predict", json={**request("cat"), **changes}), code)
    assert triton.asked == []


@pytest.mark.parametrize(
    ("failed", "code"),
    [
        ((grpc.StatusCode.INVALID_ARGUMENT, "[invalid_image] no image"), "INVALID_IMAGE"),
        ((grpc.StatusCode.NOT_FOUND, "[model_not_allowed] no"), "MODEL_NOT_FOUND"),
        ((grpc.StatusCode.INTERNAL, "what it was"), "INFERENCE_ERROR"),
        ((grpc.StatusCode.UNAVAILABLE, "[overloaded] later"), "OVERLOADED"),
    ],
)
def test_what_triton_refuses(
    client: TestClient, triton: AnsweringTriton, failed: tuple[grpc.StatusCode, str], code: str
) -> None:
    triton.failure = failed
    response = client.post("/v1/predict", json=request("cat"))
    failure(response, code)
    assert (response.headers.get("Retry-After") is not None) == (code == "OVERLOADED")


def test_a_body_of_another_kind(client: TestClient) -> None:
    failure(client.post("/v1/predict", data={"model": MODEL}), "UNSUPPORTED_MEDIA_TYPE")
    failure(client.post("/v1/predict", content=b"[]", headers={"Content-Type": "application/json"}), "INVALID_BODY")


def test_errors_are_counted_as_what_they_are(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client.post("/v1/predict", json={**request("cat"), "image": 7})
    (line,) = [record.__dict__["fields"] for record in caplog.records if record.name == "gateway.access"]
    assert (line["route"], line["status"], line["code"]) == ("/v1/predict", 400, "missing_image")
    assert 'gateway_requests_rejected_total{reason="missing_image"} 1.0' in client.get("/metrics").text


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("desk:s3cret\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "headers", [{"Token": "s3cret"}, {"Token": "", "X-API-Key": "s3cret"}, {"Authorization": "Bearer s3cret"}]
)
def test_a_key_opens(triton: AnsweringTriton, keys_file: Path, headers: dict[str, str]) -> None:
    with serving(triton, api_keys_file=keys_file) as client:
        assert client.post("/v1/predict", json=request("cat"), headers=headers).json()["success"] is True


def test_without_a_key_it_stays_shut(triton: AnsweringTriton, keys_file: Path) -> None:
    with serving(triton, api_keys_file=keys_file) as client:
        for headers in ({}, {"Token": ""}, {"Token": "wrong"}):
            failure(client.post("/v1/predict", json=request("cat"), headers=headers), "UNAUTHORIZED")
            failure(client.get("/v1/models", headers=headers), "UNAUTHORIZED")
        assert client.post("/segment", headers={"Token": "s3cret"}).status_code == 401  # that is X-AnyLabeling's header


def test_without_triton_there_is_no_list(client: TestClient) -> None:
    failure(client.get("/v1/models"), "UNAVAILABLE")


def test_the_answer_is_json_of_plain_numbers(client: TestClient) -> None:
    response = client.post("/v1/predict", json=request("cat"))
    assert json.loads(response.content) == response.json()
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("end", ["error", "deadline", "cancelled"])
def test_a_broken_off_answer_is_an_error(client: TestClient, triton: AnsweringTriton, end: str) -> None:
    """The client took it for an answer without objects, and removed the picture's shapes."""
    triton.finish_reason = end
    code = "INFERENCE_ERROR" if end == "error" else "DEADLINE"
    assert end in failure(client.post("/v1/predict", json=request("cat")), code)


@pytest.mark.parametrize("end", ["length", "repeat"])
def test_what_was_found_before_a_limit_is_an_answer(client: TestClient, triton: AnsweringTriton, end: str) -> None:
    triton.finish_reason = end
    assert len(shapes(client, "cat")) == 2


def test_an_unforeseen_failure_leaves_the_shapes_as_well(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise ZeroDivisionError("of a bug")

    monkeypatch.setattr(x_anylabeling, "split_prompts", fail)
    with caplog.at_level(logging.INFO):
        response = client.post("/v1/predict", json=request("cat"))
    assert "bug" not in failure(response, "INFERENCE_ERROR")
    (logged,) = [record for record in caplog.records if record.name == "gateway.errors"]
    assert logged.exc_info is not None and logged.exc_info[0] is ZeroDivisionError
    (line,) = [record.__dict__["fields"] for record in caplog.records if record.name == "gateway.access"]
    assert (line["status"], line["code"]) == (500, "internal")
