"""The clients against a gateway that answers as it is told: repetitions, errors, streams."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from scripted_gateway import HANG_UP, answer, events, failure, scripted_gateway

import paligemma_client.retrying
from paligemma_client import (
    AsyncClient,
    Client,
    ClientError,
    ConnectionFailed,
    FoundObject,
    IncompleteAnswer,
    InvalidPicture,
    NotAllowed,
    RequestRefused,
    Result,
    ServerBusy,
    ServerFailed,
    Target,
    masks,
)
from paligemma_client.questions import Asking, Question
from paligemma_client.rest import RestRequests

PIXELS = np.zeros((6, 8, 3), np.uint8)
MASK = np.zeros((6, 8), np.bool_)
MASK[1:4, 2:7] = True
ENTRY = {"mask": masks.encode(MASK), "coordinates": [2, 1, 7, 4], "label": "cat", "score": 0.9, "mask_score": 0.8}

Call = Callable[..., Result]


def _sync(url: str, prompt: Any, *, timeout_s: float = 10, api_key: str | None = None, **asking: Any) -> Result:
    with Client(url, timeout_s=timeout_s, api_key=api_key) as client:
        return client.segment(asking.pop("picture", PIXELS), prompt, **asking)


def _async(url: str, prompt: Any, *, timeout_s: float = 10, api_key: str | None = None, **asking: Any) -> Result:
    async def call() -> Result:
        async with AsyncClient(url, timeout_s=timeout_s, api_key=api_key) as client:
            return await client.segment(asking.pop("picture", PIXELS), prompt, **asking)

    return asyncio.run(call())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Both clients, with pauses too short to be waited for."""
    monkeypatch.setattr(paligemma_client.retrying, "FIRST_PAUSE_S", 0.001)
    chosen: Call = request.param
    return chosen


def test_an_answer_becomes_objects(call: Call) -> None:
    with scripted_gateway(segment=[answer([ENTRY, {**ENTRY, "mask": None, "mask_score": None}])]) as gateway:
        result = call(gateway.url, "cat")
    found, boxed = result.objects
    assert (result.width, result.height, result.model_id, result.request_id) == (8, 6, "scripted", "r1")
    assert (found.label, found.score, found.mask_score, found.box_xyxy) == ("cat", 0.9, 0.8, (2, 1, 7, 4))
    assert found.mask is not None and np.array_equal(found.mask, MASK)
    assert found.rle() == ENTRY["mask"]
    assert (boxed.mask, boxed.polygon(), boxed.area_px) == (None, [], 15)


def test_targets_are_named_where_the_server_says_which_is_which(call: Call) -> None:
    targets = [{"target": "dog", "finish_reason": "eos"}, {"target": "the cat", "finish_reason": "eos"}]
    with scripted_gateway(segment=[answer([{**ENTRY, "target": 1}], targets=targets)]) as gateway:
        (found,) = call(gateway.url, ["dog", "the cat"]).objects
    assert (found.label, found.target, found.category) == ("cat", "the cat", "the cat")


@pytest.mark.parametrize("reason", ["length", "deadline", "error"])
def test_an_answer_says_which_targets_are_not_complete(call: Call, reason: str) -> None:
    targets = [{"target": "dog", "finish_reason": "eos"}, {"target": "cat", "finish_reason": reason}]
    with scripted_gateway(segment=[answer([ENTRY], targets=targets)]) as gateway:
        result = call(gateway.url, ["dog", "cat"])
    assert result.targets == [Target("dog", "eos"), Target("cat", reason)]
    assert not result.is_complete


def test_a_tile_that_is_not_finished_makes_the_answer_incomplete(call: Call) -> None:
    ends = [answer(targets=[{"target": "cat", "finish_reason": reason}]) for reason in ("eos", "deadline")]
    with scripted_gateway(segment=ends) as gateway:
        assert call(gateway.url, "cat", tiles="2x1").targets == [Target("cat", "deadline")]


def test_an_answer_that_is_complete(call: Call) -> None:
    with scripted_gateway(segment=[answer(targets=[{"target": "dog", "finish_reason": "eos"}]), answer()]) as gateway:
        assert call(gateway.url, "dog").is_complete
        assert call(gateway.url, "dog").is_complete, "older servers do not say how answers ended"


def test_several_things_to_detect_are_one_target_and_told_apart_by_label(call: Call) -> None:
    targets = [{"target": "dog ; cat", "finish_reason": "eos"}]
    with scripted_gateway(segment=[answer([{**ENTRY, "target": 0}], targets=targets)]) as gateway:
        (found,) = call(gateway.url, "detect dog ; cat").objects
    assert found.category == "cat"


@pytest.mark.parametrize(
    "passing",
    [
        failure(503, "overloaded", Retry_After="0"),
        failure(503, "loading"),
        failure(429, "overloaded"),
        failure(502, "internal"),
        (502, {}, b"<html>a proxy"),
        HANG_UP,
    ],
)
def test_what_may_pass_is_tried_again(call: Call, passing: Any) -> None:
    with scripted_gateway(segment=[passing, passing, answer([ENTRY])]) as gateway:
        assert len(call(gateway.url, "cat").objects) == 1
    assert len(gateway.requests) == 3


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_image", RequestRefused),
        (401, "unauthorized", NotAllowed),
        (403, "model_gated", NotAllowed),
        (404, "model_not_found", RequestRefused),
        (422, "invalid_request", RequestRefused),
        (502, "model_failed", ServerFailed),
        (504, "deadline", ServerFailed),
    ],
)
def test_what_does_not_pass_is_raised_at_once(call: Call, status: int, code: str, kind: type[Exception]) -> None:
    with scripted_gateway(segment=[failure(status, code)]) as gateway, pytest.raises(kind) as caught:
        call(gateway.url, "cat")
    assert len(gateway.requests) == 1
    assert (caught.value.code, caught.value.status, caught.value.request_id) == (code, status, "r2")  # type: ignore[attr-defined]


def test_a_server_that_fails_on_a_picture_is_left_alone_after_three_attempts(call: Call) -> None:
    with scripted_gateway(segment=[failure(502, "internal")]) as gateway, pytest.raises(ServerFailed):
        call(gateway.url, "cat")
    assert len(gateway.requests) == 3


def test_a_full_server_is_given_up_when_the_time_is(call: Call) -> None:
    busy = failure(503, "overloaded", Retry_After="7")
    with scripted_gateway(segment=[busy]) as gateway, pytest.raises(ServerBusy):
        call(gateway.url, "cat", timeout_s=6)
    assert len(gateway.requests) == 1, "the pause that the server asks for is longer than the caller's time"


def test_nobody_listens(call: Call) -> None:
    with scripted_gateway() as gateway:
        pass
    with pytest.raises(ConnectionFailed):
        call(gateway.url, "cat", timeout_s=0.2)


def test_the_key_goes_to_the_gateway_and_not_to_a_pictures_host(call: Call) -> None:
    picture = (200, {}, masks.encode(MASK)["counts"].encode())
    with scripted_gateway(segment=[answer()]) as gateway, scripted_gateway(picture=[HANG_UP, picture]) as host:
        call(gateway.url, "cat", api_key="secret", picture=f"{host.url}/picture")
    assert gateway.requests[0][1]["authorization"] == "Bearer secret"
    assert picture[2] in gateway.requests[0][2]
    assert len(host.requests) == 2
    assert all("authorization" not in headers for _, headers, _ in host.requests)


def test_a_picture_that_is_not_there(call: Call) -> None:
    with scripted_gateway() as gateway, pytest.raises(InvalidPicture):
        call(gateway.url, "cat", picture=f"{gateway.url}/nothing")
    with pytest.raises(InvalidPicture):
        call(gateway.url, "cat", picture="/no/such/file")
    with pytest.raises(InvalidPicture, match="float32"):
        call(gateway.url, "cat", picture=np.zeros((2, 2), np.float32))


def test_more_targets_than_one_request_takes(call: Call) -> None:
    with scripted_gateway(segment=[answer([ENTRY], text="a"), answer([ENTRY, ENTRY], text="b")]) as gateway:
        result = call(gateway.url, [f"thing {number}" for number in range(10)])
    assert (len(result.objects), result.text) == (3, "a ; b")
    first, second = gateway.bodies()
    assert "segment thing 0 ; thing 1 ; thing 2 ; thing 3 ; thing 4 ; thing 5 ; thing 6 ; thing 7\r\n" in first
    assert "segment thing 8 ; thing 9\r\n" in second


def test_what_is_asked_reaches_the_server(call: Call) -> None:
    with scripted_gateway(segment=[answer()]) as gateway:
        call(gateway.url, "Segment  cat", model_id="other", max_new_tokens=20, min_score=0.25)
    (body,) = gateway.bodies()
    fields = {"prompt": "segment cat", "model_id": "other", "max_new_tokens": "20", "min_score": "0.25"}
    assert all(f'name="{name}"\r\n\r\n{value}\r\n' in body for name, value in fields.items())


@pytest.mark.parametrize("server", ["localhost:8000", "ftp://host", "http://"])
def test_an_address_that_is_none(server: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        Client(server)


def test_an_answer_that_is_no_gateways(call: Call) -> None:
    with scripted_gateway(segment=[(200, {}, b"<html>")]) as gateway, pytest.raises(ClientError, match="not JSON"):
        call(gateway.url, "cat")


def test_orientation_of_an_image_is_applied_before_it_is_sent(call: Call) -> None:
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6  # a quarter turn
    with scripted_gateway(segment=[answer()]) as gateway:
        result = call(gateway.url, "cat", picture=image)
    assert result.image().size == (2, 4)


def _stream(url: str, *, is_async: bool) -> list[FoundObject]:
    if not is_async:
        with Client(url, timeout_s=10) as client:
            return list(client.stream(PIXELS, ["dog", "cat"]))

    async def call() -> list[FoundObject]:
        async with AsyncClient(url, timeout_s=10) as client:
            return [found async for found in client.stream(PIXELS, ["dog", "cat"])]

    return asyncio.run(call())


ACCEPTED = ("accepted", {"request_id": "r1", "targets": ["dog", "cat"]})
OBJECT = ("object", {"target": 1, "object": ENTRY})
DONE = ("done", {"text": "", "timings_ms": {}})


@pytest.mark.parametrize("is_async", [False, True])
class TestStream:
    def test_objects_come_one_by_one(self, is_async: bool) -> None:
        with scripted_gateway(stream=[events(ACCEPTED, OBJECT, OBJECT, DONE)]) as gateway:
            found = _stream(gateway.url, is_async=is_async)
        assert [one.target for one in found] == ["cat", "cat"]
        assert found[0].mask is not None and np.array_equal(found[0].mask, MASK)

    def test_a_full_server_is_asked_again(self, is_async: bool) -> None:
        script = [failure(503, "overloaded", Retry_After="0"), events(ACCEPTED, OBJECT, DONE)]
        with scripted_gateway(stream=script) as gateway:
            assert len(_stream(gateway.url, is_async=is_async)) == 1

    def test_a_server_that_does_not_stream_is_asked_for_all(self, is_async: bool) -> None:
        with scripted_gateway(segment=[answer([ENTRY])]) as gateway:
            assert len(_stream(gateway.url, is_async=is_async)) == 1
        assert [path for path, _, _ in gateway.requests] == ["/segment/stream", "/segment"]

    def test_a_missing_model_is_no_missing_stream(self, is_async: bool) -> None:
        with (
            scripted_gateway(stream=[failure(404, "model_not_found")], segment=[answer()]) as gateway,
            pytest.raises(RequestRefused),
        ):
            _stream(gateway.url, is_async=is_async)

    def test_an_error_in_the_middle(self, is_async: bool) -> None:
        error = ("error", {"status": "error", "code": "deadline", "detail": "late", "request_id": "r1"})
        with scripted_gateway(stream=[events(ACCEPTED, OBJECT, error)]) as gateway, pytest.raises(ServerFailed):
            _stream(gateway.url, is_async=is_async)

    @pytest.mark.parametrize("is_streamed", [False, True])
    def test_a_target_that_is_not_finished_is_an_error_after_the_objects(
        self, is_async: bool, is_streamed: bool
    ) -> None:
        ends = [{"target": "dog", "finish_reason": "deadline"}, {"target": "cat", "finish_reason": "eos"}]
        done = ("done", {"text": "", "timings_ms": {}, "targets": ends})
        script = {"stream": [events(ACCEPTED, OBJECT, done)]} if is_streamed else {"segment": [answer(targets=ends)]}
        with scripted_gateway(**script) as gateway, pytest.raises(IncompleteAnswer) as raised:
            _stream(gateway.url, is_async=is_async)
        assert raised.value.targets == {"dog": "deadline"}

    def test_a_stream_that_breaks_off(self, is_async: bool) -> None:
        with scripted_gateway(stream=[events(ACCEPTED, OBJECT)]) as gateway, pytest.raises(ConnectionFailed):
            _stream(gateway.url, is_async=is_async)


def test_a_request_is_sent_as_a_whole() -> None:
    """Field by field it took 30 calls of the system, which cost more time than everything else that the client does."""
    question = Question(picture=b"picture", prompt="segment cat", asking=Asking(model_id="m", max_new_tokens=9))
    for web in (httpx2.Client(), httpx2.AsyncClient()):
        request = RestRequests("http://localhost:8000", None, web).segment(question, 1.0)
        assert isinstance(request.stream, httpx2.ByteStream)
        assert [b"picture" in part for part in request.stream] == [True]
        assert request.headers["content-length"] == str(len(request.content))


@pytest.mark.parametrize("said", [{"dtypes": {"m": ["bfloat16"]}}, {}], ids=["new", "old"])
def test_models_of_newer_and_older_servers(said: dict[str, Any]) -> None:
    """An older one does not say in which number format it computes."""
    body = json.dumps({"default": "m", "allowed": ["a/*"], "loaded": ["m"], "loading": [], **said}).encode()
    with scripted_gateway(models=[(200, {}, body)]) as gateway, Client(gateway.url) as client:
        models = client.models()
    assert (models.default, models.loaded, models.dtypes) == ("m", ["m"], said.get("dtypes", {}))
