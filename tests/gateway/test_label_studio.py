"""Label Studio's backend protocol: a gateway between a stand-in for Label Studio and one for Triton."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering_triton import Status
from fastapi.testclient import TestClient
from grpc import StatusCode
from label_studio_site import BOXES, INTERFACE, ORIGINAL_HW, RING, backend
from run_lengths import decoded

from gateway.answers.masks import paste_mask
from gateway.answers.spaces import Space
from gateway.app import create_app
from gateway.dialects.label_studio import predictions, routes, schemas
from gateway.settings import Settings

HEIGHT, WIDTH = ORIGINAL_HW
CAT, DOG = {"/data/upload/1/cat.png": b"a cat"}, {"/data/upload/1/dog.png": b"a dog"}
PATHS = ("/data/upload/1/cat.png", "/data/upload/1/dog.png")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(predictions, "LONGEST_PAUSE_S", 0.05)


def labels(entry: dict[str, Any]) -> list[str]:
    return [region["value"][region["type"]][0] for region in entry["result"]]


def true_mask(target: str) -> np.ndarray:
    box = Space(WIDTH, HEIGHT).pixel_box(BOXES[target])
    return paste_mask(RING, box, width=WIDTH, height=HEIGHT)


def refusal(code: str, status: StatusCode = StatusCode.UNAVAILABLE) -> Status:
    return status, f"[{code}] try something else"


def test_without_a_label_studio_there_are_no_paths() -> None:
    with TestClient(create_app(Settings(triton_grpc_url="127.0.0.1:1"))) as client:
        assert client.get("/label-studio/health").status_code == 404
        assert client.post("/label-studio/predict", json={}).status_code == 404


def test_what_label_studio_asks_beside_predictions() -> None:
    with backend() as served:
        assert served.client.get("/label-studio/health").json()["status"] == "UP"
        schema = {"project": "7.1", "schema": INTERFACE, "hostname": "http://ls", "access_token": "x"}
        assert served.client.post("/label-studio/setup", json=schema).json() == {"model_version": "org/model@abc"}
        assert served.client.get("/label-studio/versions").json()["versions"] == ["org/model@abc"]
        told = served.client.post("/label-studio/webhook", json={"action": "ANNOTATION_CREATED", "project": {"id": 1}})
        assert (told.status_code, told.json()["status"]) == (201, "ok")
        for path in ("validate", "delete", "duplicate_model"):
            assert served.client.post(f"/label-studio/{path}", json={}).status_code == 200


def test_an_entry_for_each_task_in_their_order() -> None:
    with backend(CAT | DOG) as served:
        first, second = served.predict(*PATHS)
    assert labels(first) == labels(second) == ["cat", "Dog"]
    assert first["score"] == 0.9
    assert first["model_version"] == "org/model@abc"
    assert served.triton.prompts == ["segment cat ; big dog"] * 2
    cat, dog = first["result"]
    assert {
        key: cat[key] for key in ("from_name", "to_name", "type", "original_width", "original_height", "score")
    } == {
        "from_name": "brush",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "score": 0.9,
    }
    assert len({region["id"] for entry in (first, second) for region in entry["result"]}) == 4
    assert cat["value"]["format"] == "rle"
    for target, region in (("cat", cat), ("big dog", dog)):
        assert np.array_equal(decoded(region["value"]["rle"], ORIGINAL_HW), true_mask(target))


def test_a_picture_that_is_none_gets_an_empty_result_and_the_others_get_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_prompt: str, image: bytes) -> Status | None:
        return refusal("invalid_image", StatusCode.INVALID_ARGUMENT) if image == b"a dog" else None

    with caplog.at_level(logging.WARNING), backend(CAT | DOG, {"refuse": refuse}) as served:
        cat, dog, none = served.predict(*PATHS, None)
    assert labels(cat) == ["cat", "Dog"]
    assert dog == none == {"result": [], "score": 0.0, "model_version": "org/model@abc"}
    failures = [record.__dict__["fields"] for record in caplog.records if record.name == predictions.__name__]
    assert {(failure["task"], failure["code"]) for failure in failures} == {(2, "invalid_image"), (3, "missing_image")}


@pytest.mark.parametrize("code", ["model_failed", "internal"])
def test_a_task_that_the_server_failed_on_is_left_for_the_next_request(code: str) -> None:
    """An entry with a result, even an empty one, is stored, and its task never asked for again."""

    def refuse(_prompt: str, image: bytes) -> Status | None:
        return refusal(code, StatusCode.INTERNAL) if image == b"a dog" else None

    with backend(CAT | DOG, {"refuse": refuse}) as served:
        cat, dog = served.predict(*PATHS)
    assert labels(cat) == ["cat", "Dog"]
    assert "result" not in dog


def test_an_incomplete_answer_is_left_for_the_next_request() -> None:
    with backend(CAT, {"finish_reason": "deadline"}) as served:
        assert "result" not in served.predict(PATHS[0])[0]


@pytest.mark.parametrize("code", ["loading", "overloaded"])
def test_an_engine_that_is_not_ready_is_asked_again(code: str) -> None:
    refusals = [refusal(code)] * 3

    def refuse(_prompt: str, _image: bytes) -> Status | None:
        return refusals.pop() if refusals else None

    with backend(CAT, {"refuse": refuse}) as served:
        assert labels(served.predict(PATHS[0])[0]) == ["cat", "Dog"]
    assert len(served.triton.prompts) == 4


def test_an_engine_that_stays_so_does_not_keep_label_studio_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "PREDICT_TIMEOUT_S", 0.3)

    with backend(CAT, {"failure": refusal("loading")}) as served:
        assert served.predict(*PATHS[:1] * 40) == [{"model_version": "org/model@abc"}] * 40


def test_more_tasks_than_places_wait_for_one() -> None:
    with backend(CAT, max_concurrent_requests=1) as served:
        assert [labels(entry) for entry in served.predict(*PATHS[:1] * 20)] == [["cat", "Dog"]] * 20
        text = served.client.get("/metrics").text
    assert "gateway_requests_in_flight 0.0" in text
    assert "gateway_body_bytes_in_flight 0.0" in text.replace("262144.0", "0.0")  # of this very request


def test_entries_that_do_not_fit_the_byte_budget_are_left_for_the_next_request() -> None:
    """They are kept until the last task is answered, and there may be a thousand."""
    limits = {"max_image_bytes": 100, "max_body_bytes_in_flight": 1}  # the budget is one largest body: 1,000,133 bytes
    listed = "".join(f'<Label value="{number}{"x" * 20_000}" prompt="{number}"/>' for number in range(8))
    interface = (
        f'<View><Image name="i" value="$image"/><RectangleLabels name="r" toName="i">{listed}</RectangleLabels></View>'
    )
    with backend(CAT, **limits) as served:
        entries = served.predict(*PATHS[:1] * 20, interface=interface)
    answered = ["result" in entry for entry in entries]
    assert 0 < sum(answered) < 20


def test_a_typed_prompt_is_asked_instead_of_the_labels() -> None:
    region = {
        "type": "textarea",
        "from_name": "prompt",
        "to_name": "image",
        "value": {"text": ["segment red hat; DOG"]},
    }
    with backend(CAT) as served:
        (entry,) = served.predict(PATHS[0], params={"context": {"result": [region]}})
    assert served.triton.prompts == ["segment red hat ; DOG"]
    assert labels(entry) == ["cat", "Dog"]  # the first where no label is meant


def test_an_editor_gets_a_result_even_where_nothing_could_be_asked() -> None:
    region = {"type": "textarea", "value": {"text": "hat"}}
    with backend({}) as served:
        (entry,) = served.predict(PATHS[0], params={"context": {"result": [region]}})
    assert entry == {"result": [], "score": 0.0, "model_version": "org/model@abc"}


def test_many_labels_are_asked_for_in_several_prompts() -> None:
    names = [f"thing {number}" for number in range(10)]
    listed = "".join(f'<Label value="{name}"/>' for name in names)
    interface = (
        f'<View><Image name="i" value="$image"/><RectangleLabels name="r" toName="i">{listed}</RectangleLabels></View>'
    )
    with backend(CAT) as served:
        (entry,) = served.predict(PATHS[0], interface=interface)
    assert served.triton.prompts == [f"segment {' ; '.join(names[:8])}", f"segment {' ; '.join(names[8:])}"]
    assert labels(entry) == names


def test_low_scores_are_left_out_where_a_control_says_so() -> None:
    with backend(CAT) as served:
        for threshold, count in (("0.91", 0), ("0.89", 2)):
            interface = INTERFACE.replace('name="brush"', f'name="brush" model_score_threshold="{threshold}"')
            assert len(served.predict(PATHS[0], interface=interface)[0]["result"]) == count


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"tasks": 7, "label_config": ""}', b'{"tasks": [' + b"[" * 99_999]
)
def test_a_body_that_is_no_request(body: bytes) -> None:
    with backend() as served:
        headers = {"Content-Type": "application/json"}
        response = served.client.post("/label-studio/predict", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_keys_are_passwords_here(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("labelling:a-key\n")
    schema = {"schema": INTERFACE}
    with backend(api_keys_file=keys) as served:
        client = served.client
        assert client.post("/label-studio/setup", json=schema, auth=("any", "a-key")).status_code == 200
        assert client.post("/label-studio/setup", json=schema, headers={"X-API-Key": "a-key"}).status_code == 200
        for refused in (("any", "wrong"), ("a-key", ""), None):
            assert client.post("/label-studio/setup", json=schema, auth=refused).status_code == 401
        assert client.post("/label-studio/setup", json=schema, headers={"Authorization": "Basic ?"}).status_code == 401
        assert client.post("/label-studio/predict", json={}).status_code == 401
        assert client.post("/segment", auth=("any", "a-key")).status_code == 401
        assert client.get("/label-studio/health", auth=("any", "a-key")).status_code == 200
        assert client.get("/label-studio/health").status_code == 401  # Label Studio then says what is wrong
        assert client.post("/label-studio/webhook", json={}).status_code == 201


@pytest.mark.parametrize(
    ("tasks", "results", "shown"),
    [
        (["1"] * 200_000, [], "tasks.0"),
        (["{}"] * 200_000, [], f"at most {schemas.MAX_TASKS} items"),
        ([], ["1"] * 200_000, "result.0"),
        ([], ["{}"] * 200_000, f"at most {schemas.MAX_REGIONS} items"),
    ],
)
def test_a_small_body_cannot_take_much_memory(tasks: list[str], results: list[str], shown: str) -> None:
    """Each wrong task, and each empty one, had a record of its own: a body of 0.6 MB took 420 MB."""
    context = f'"params": {{"context": {{"result": [{",".join(results)}]}}}}'
    body = f'{{"tasks": [{",".join(tasks)}], "label_config": "", {context}}}'
    with backend() as served:
        headers = {"Content-Type": "application/json"}
        response = served.client.post("/label-studio/predict", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert shown in response.json()["detail"]
    assert len(response.content) < 1000


def test_what_is_no_text_of_a_task_is_not_read() -> None:
    body = schemas.PredictBody.model_validate_json(
        '{"tasks": [{"data": {"image": "a.png", "more": [[[]]], "size": 7}}], "label_config": "", '
        '"params": {"context": {"result": [{"type": "textarea", "value": {"text": ["a", "b"], "x": 1}}]}}}'
    )
    assert body.tasks[0].data == {"image": "a.png"}
    assert body.typed == "a b"


def test_many_tasks_have_few_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task was a task of asyncio, too."""
    counts: list[int] = []
    waiting = predictions.Predictor._entry

    async def entry(self: Any, call: Any, task: Any) -> bytes:
        counts.append(len(asyncio.all_tasks()))
        return await waiting(self, call, task)

    monkeypatch.setattr(predictions.Predictor, "_entry", entry)
    with backend() as served:
        served.predict(*[None] * 500)
    assert max(counts) < predictions.MAX_TASKS_AT_ONCE + 10


@pytest.mark.parametrize(("places", "tasks"), [(1, 1), (2, 1), (8, 4), (64, 16)])
def test_half_of_the_places_are_left_to_others(places: int, tasks: int) -> None:
    assert predictions.most_at_once(Settings(max_concurrent_requests=places)) == tasks
