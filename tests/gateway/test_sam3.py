"""Roboflow's SAM 3 route: the request as its SDK sent it, and the answer as supervision reads it.

tests/data/sam3_request.json is written by `python scripts/inference_sdk.py --record`, which has the SDK itself.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from answering_triton import AnsweringTriton, Thing, answering_triton, disc
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from stack import REPOSITORY
from web import SITE, reply, site

from gateway.app import create_app
from gateway.dialects import sam3
from gateway.settings import Settings

RECORDED = json.loads((REPOSITORY / "tests" / "data" / "sam3_request.json").read_text())
PICTURE = b"a picture " * 20_000
PATH = "/sam3/concept_segment"
WIDTH, HEIGHT = 640, 480
THINGS = {
    "blue star": [Thing(score=0.9), Thing(box=(0.0, 0.0, 0.2, 0.2), score=0.15)],
    "cyan ring": [Thing(box=(0.5, 0.5, 1.0, 1.0), mask=disc(hole=0.4), score=0.15)],
    "star": [Thing(box=(0.26, 0.25, 0.76, 0.75), score=0.8)],
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
    app = create_app(Settings(triton_grpc_url=triton.address, **settings))
    return TestClient(app, raise_server_exceptions=False)


def request(**changes: Any) -> dict[str, Any]:
    """The SDK's, with a picture and without a key."""
    image = {"type": "base64", "value": base64.b64encode(PICTURE).decode()}
    return {**RECORDED["body"], "image": image, "api_key": None, **changes}


def asking(*texts: str, **changes: Any) -> dict[str, Any]:
    return request(prompts=[{"type": "text", "text": text} for text in texts], **changes)


def answer(client: TestClient, body: dict[str, Any]) -> Any:
    response = client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def check(response: Any, status: int, code: str) -> str:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    return str(body["detail"])  # which the SDK shows


def test_the_sdks_own_request_is_answered(client: TestClient, triton: AnsweringTriton) -> None:
    sent = request()
    response = client.post(RECORDED["path"], content=json.dumps(sent), headers=RECORDED["headers"])
    (asked,) = triton.asked
    assert (asked["prompt"], asked["image"]) == (b"segment blue star ; cyan ring", PICTURE)
    assert "model_id" not in asked  # sam3/sam3_final is not one of ours
    results = response.json()["prompt_results"]
    assert [result["echo"] for result in results] == [
        {"prompt_index": 0, "type": "text", "text": "blue star", "num_boxes": 0},
        {"prompt_index": 1, "type": "text", "text": "cyan ring", "num_boxes": 0},
    ]
    assert response.json()["time"] > 0


def test_a_prompts_threshold_is_before_the_requests(client: TestClient) -> None:
    """0.2 for the star, of which there is one at 0.15, and 0.1 for the ring."""
    results = answer(client, request())["prompt_results"]
    assert [[found["confidence"] for found in result["predictions"]] for result in results] == [
        [pytest.approx(0.9)],
        [pytest.approx(0.15)],
    ]


@pytest.mark.filterwarnings("ignore:OpenCV:UserWarning")
def test_supervision_reads_polygons(client: TestClient) -> None:
    """Outlines are filled: as in the original, a hole has none."""
    import supervision  # noqa: PLC0415 (it warns of its missing OpenCV)

    detections = supervision.Detections.from_sam3(answer(client, request()), (WIDTH, HEIGHT))
    assert detections.class_id is not None and detections.mask is not None and detections.confidence is not None
    assert detections.class_id.tolist() == [0, 1]
    for box, mask in zip([(0.25, 0.25, 0.75, 0.75), (0.5, 0.5, 1.0, 1.0)], detections.mask, strict=True):
        expected = filled_disc(box)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.97


def filled_disc(box: tuple[float, float, float, float]) -> np.ndarray:
    x_min, y_min, x_max, y_max = np.array(box) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    centre_x, centre_y = (x_min + x_max) / 2, (y_min + y_max) / 2
    inside = np.hypot((x - centre_x) / (x_max - x_min), (y - centre_y) / (y_max - y_min)) < 0.8 / 2
    return np.asarray(inside, bool)


def test_run_lengths_are_cocos(client: TestClient) -> None:
    ring = answer(client, request(format="rle"))["prompt_results"][1]["predictions"][0]
    assert ring["format"] == "rle"
    mask = pycocotools.mask.decode(ring["masks"])
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask[360, 480] == 0 and mask[360, 480 + 96] == 1  # the hole, and beside it


def test_overlapping_objects_of_different_prompts(client: TestClient) -> None:
    def counts(**changes: Any) -> list[int]:
        results = answer(client, asking("star", "blue star", output_prob_thresh=0.0, **changes))["prompt_results"]
        return [len(result["predictions"]) for result in results]

    assert counts(nms_iou_threshold=None) == [1, 2]
    assert counts(nms_iou_threshold=0.99) == [1, 2]
    assert counts(nms_iou_threshold=0.5) == [0, 2]  # the blue star's score is the better one


@pytest.mark.parametrize("mask_format", ["polygon", "rle"])
def test_objects_without_a_mask_are_left_out(client: TestClient, mask_format: str) -> None:
    changes = {"format": mask_format, "output_prob_thresh": 0.0, "nms_iou_threshold": 0.5}
    results = answer(client, asking("frame", "speck", "nothing", **changes))
    assert [result["predictions"] for result in results["prompt_results"]] == [[], [], []]


def test_more_prompts_than_a_question_takes(client: TestClient, triton: AnsweringTriton) -> None:
    texts = [f"thing {number}" for number in range(15)] + ["blue star"]
    results = answer(client, asking(*texts))["prompt_results"]
    assert [asked["prompt"].count(b";") + 1 for asked in triton.asked] == [8, 8]
    assert [len(result["predictions"]) for result in results] == [0] * 15 + [1]
    assert [result["prompt_index"] for result in results] == list(range(16))


def test_another_model_is_asked_for(client: TestClient, triton: AnsweringTriton) -> None:
    answer(client, request(model_id="google/other"))
    assert triton.asked[-1]["model_id"] == b"google/other"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"image": None}, 400, "missing_image"),
        ({"image": [{"type": "base64", "value": "QQ=="}]}, 400, "missing_image"),
        ({"image": {"type": "numpy", "value": "QQ=="}}, 400, "missing_image"),
        ({"image": {"type": "base64", "value": "###"}}, 400, "invalid_url"),
        ({"image": {"type": "url", "value": "file:///etc/passwd"}}, 400, "invalid_url"),
        ({"prompts": []}, 422, "invalid_request"),
        ({"prompts": [{"type": "text"}]}, 422, "invalid_prompt"),
        ({"prompts": [{"text": "a ; b"}]}, 422, "invalid_prompt"),
        ({"prompts": [{"text": "a", "boxes": [{"x": 0, "y": 0, "width": 1, "height": 1}]}]}, 422, "invalid_prompt"),
        ({"prompts": [{"type": "visual", "text": "a"}]}, 422, "invalid_prompt"),
        ({"prompts": [{"text": "a"}] * 65}, 422, "invalid_request"),
        ({"prompts": [1] * 20_000}, 422, "invalid_request"),
        ({"format": "json"}, 422, "invalid_request"),
        ({"output_prob_thresh": 1.5}, 422, "invalid_request"),
        ({"nms_iou_threshold": -1}, 422, "invalid_request"),
    ],
)
def test_what_cannot_be_answered(client: TestClient, changes: dict[str, Any], status: int, code: str) -> None:
    assert len(check(client.post(PATH, json=request(**changes)), status, code)) < 200


def test_unknown_fields_are_passed_over(client: TestClient) -> None:
    """Here UNKNOWN_FIELDS does not count: the protocol's clients send what other models need."""
    answer(client, request(image_id="x", source="sdk", prompts=[{"text": "blue star", "box_labels": None, "more": 1}]))


def test_an_image_on_the_web(triton: AnsweringTriton) -> None:
    async def ask() -> None:
        async with site({"/image": reply(PICTURE)}) as served:
            url = served.url(host=SITE)
            settings = {"url_fetch_allowed_networks": f"{SITE}/32"}
            with serving(triton, **settings) as client:
                await asyncio.to_thread(answer, client, request(image={"type": "url", "value": url}))

    asyncio.run(ask())
    assert triton.asked[0]["image"] == PICTURE


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("robot:s3cret\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("key", "query", "headers"),
    [
        ("s3cret", "", {}),
        (None, "?api_key=s3cret", {}),
        ("wrong", "", {"Authorization": "Bearer s3cret"}),
        (None, "", {"X-API-Key": "s3cret"}),
    ],
)
def test_a_key_opens_wherever_the_sdk_puts_it(
    triton: AnsweringTriton,
    keys_file: Path,
    caplog: pytest.LogCaptureFixture,
    key: str | None,
    query: str,
    headers: dict[str, str],
) -> None:
    caplog.set_level(logging.DEBUG, logger="gateway")
    with serving(triton, api_keys_file=keys_file) as client:
        response = client.post(PATH + query, json=request(api_key=key), headers=headers)
    assert response.status_code == 200
    lines = [record.__dict__ for record in caplog.records if record.name.startswith("gateway")]
    assert [line["fields"]["key_name"] for line in lines] == ["robot"]
    assert "s3cret" not in str(lines)


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_without_a_key_it_stays_shut(triton: AnsweringTriton, keys_file: Path, key: str | None) -> None:
    with serving(triton, api_keys_file=keys_file) as client:
        check(client.post(f"{PATH}?api_key={key or ''}", json=request(api_key=key)), 401, "unauthorized")
    assert triton.asked == []


def test_a_key_in_the_query_is_in_no_span(triton: AnsweringTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI's spans hold the query as it came."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with serving(triton, traces="on") as client:
        for path in (PATH, "/nowhere"):
            client.post(f"{path}?api_key=s3cret", json=request(api_key="s3cret"))
    attributes = [dict(span.attributes or {}) for span in exporter.get_finished_spans()]
    assert [found["url.query"] for found in attributes if "url.query" in found] == ["REDACTED", "REDACTED"]
    assert "s3cret" not in str(attributes)


def test_a_wrong_key_is_not_echoed(triton: AnsweringTriton, keys_file: Path) -> None:
    with serving(triton, api_keys_file=keys_file) as client:
        response = client.post(PATH, json=request(api_key=["s3cret"]))
    check(response, 401, "unauthorized")
    assert "s3cret" not in response.text
    with serving(triton) as client:
        response = client.post(PATH, json=request(api_key=["s3cret"]))
    check(response, 422, "invalid_request")
    assert "s3cret" not in response.text


@pytest.mark.parametrize("headers", [{"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}])
def test_a_wrong_key_in_the_head_is_refused_before_the_body(
    triton: AnsweringTriton, keys_file: Path, headers: dict[str, str]
) -> None:
    """What is no JSON would be refused as that, were it read."""
    with serving(triton, api_keys_file=keys_file) as client:
        check(client.post(PATH, content=b"{", headers=headers), 401, "unauthorized")
        check(client.post(f"{PATH}?api_key=wrong", content=b"{"), 401, "unauthorized")


def test_without_a_key_neither_fields_nor_image_are_decoded(
    triton: AnsweringTriton, keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    monkeypatch.setattr(sam3, "read_image_text", lambda *arguments: decoded.append(arguments))
    with serving(triton, api_keys_file=keys_file) as client:
        check(client.post(PATH, json=request(prompts=[])), 401, "unauthorized")
        check(client.post(PATH, json=request()), 401, "unauthorized")
    assert decoded == []


@pytest.mark.parametrize(("end", "status", "code"), [("error", 502, "internal"), ("deadline", 504, "deadline")])
def test_a_broken_off_answer_is_an_error(
    client: TestClient, triton: AnsweringTriton, end: str, status: int, code: str
) -> None:
    triton.finish_reason = end
    check(client.post(PATH, json=request()), status, code)
