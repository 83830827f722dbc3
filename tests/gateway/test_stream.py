"""POST /segment/stream: what is sent when; before a Triton whose targets end when the test says so."""

import asyncio
import json
import logging
from typing import Any

import grpc
import pytest
from served_gateway import ServedGateway
from streams import IMAGE, PATH, answer_all, request, run, streamed
from told_triton import ToldTriton

from gateway.routes import stream

NEVER_S = 600.0


def test_an_object_is_sent_before_the_last_target_ends() -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway) as (response, events):
            assert response.status_code == 200
            accepted = await anext(events)
            assert accepted == (
                "accepted",
                {"request_id": response.headers["X-Request-ID"], "targets": ["a", "b", "c", "d"]},
            )
            for number, target in ((2, "c"), (0, "a"), (3, "d"), (1, "b")):
                (await triton.wait_for(f"segment {target}")).answer(target)
                name, data = await anext(events)  # the others are still being decoded
                assert (name, data["target"], data["object"]["target"]) == ("object", number, number)
                assert data["object"]["label"] == target
            name, done = await anext(events)
            assert (name, [rest async for rest in events]) == ("done", [])
        assert done["targets"] == [{"target": target, "finish_reason": "eos"} for target in "abcd"]
        assert done["text"] == " ; ".join(f"<loc0256><loc0256><loc0767><loc0767> {target}" for target in "abcd")

    run(scenario)


def test_its_headers_keep_proxies_and_caches_out_of_the_way(begins_at_once: None) -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        sent = request("a", return_image="false")
        async with streamed(gateway, **sent, headers={"Origin": "https://a.example"}) as (response, _):
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["x-accel-buffering"] == "no"
            assert response.headers["access-control-allow-origin"] == "https://a.example"
            assert "content-length" not in response.headers

    run(scenario, cors_origins="https://a.example")


def test_comments_are_sent_while_nothing_else_is(monkeypatch: pytest.MonkeyPatch, begins_at_once: None) -> None:
    monkeypatch.setattr(stream, "COMMENT_EVERY_S", 0.01)

    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway, **request("a")) as (_, events):
            assert [(await anext(events))[0] for _ in range(3)] == ["accepted", "comment", "comment"]
            (await triton.wait_for("segment a")).answer()
            assert [name async for name, _ in events if name != "comment"] == ["object", "done"]

    run(scenario)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"return_image": "false", "overlay": "true", "mask_format": "rle", "coordinate_space": "original"},
        {"min_score": "0.95", "overlay": "true"},
    ],
)
def test_the_answer_is_that_of_segment(fields: dict[str, str]) -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        sent = request("cat", **fields)
        whole = asyncio.create_task(gateway.client.post("/segment", **sent))
        (await triton.wait_for("segment cat")).answer(count=2)
        expected = (await whole).json()
        async with streamed(gateway, **sent) as (_, events):
            (await triton.wait_for("segment cat", 2)).answer(count=2)
            accepted, *objects, (last, done) = [event async for event in events]
        assert (accepted[0], last) == ("accepted", "done")
        assert [data["object"] for _, data in objects] == expected.pop("masks")
        assert done.keys() == expected.keys()
        for own in ("request_id", "timings_ms"):
            assert done.pop(own).__class__ is expected.pop(own).__class__
        assert done == expected

    run(scenario)


def test_a_target_without_objects_is_in_done(begins_late: None) -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(answer_all(triton, "a"))
            response = group.create_task(gateway.client.post(PATH, **request("a;b;b", return_image="false")))
            for number in (1, 2):  # a target that is named twice is asked twice
                (await triton.wait_for("segment b", number)).answer("b", count=0)
        assert [line for line in response.result().text.splitlines() if line.startswith("event")] == [
            "event: accepted",
            "event: object",
            "event: done",
        ]
        done = json.loads(response.result().text.rpartition("data: ")[2])
        assert [target["target"] for target in done["targets"]] == ["a", "b", "b"]
        assert set(done["timings_ms"]) == {"receive", "inference", "encode"}

    run(scenario)


@pytest.mark.parametrize(
    ("status", "code", "http_status"),
    [
        (grpc.StatusCode.UNAVAILABLE, "overloaded", 503),
        (grpc.StatusCode.INVALID_ARGUMENT, "invalid_image", 400),
        (grpc.StatusCode.NOT_FOUND, "model_not_allowed", 403),
    ],
)
def test_what_is_refused_before_the_first_event_has_its_status(
    begins_late: None, status: grpc.StatusCode, code: str, http_status: int
) -> None:
    """The other targets' requests are cancelled at once."""

    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        response = asyncio.create_task(gateway.client.post(PATH, **request("a;b")))
        other = await triton.wait_for("segment a")
        (await triton.wait_for("segment b")).refuse(status, f"in ensemble 'segment', [{code}] in words")
        body = (await response).json()
        assert (response.result().status_code, body["code"], body["detail"]) == (http_status, code, "in words")
        assert response.result().headers.get("Retry-After") == ("1" if http_status == 503 else None)
        await asyncio.wait_for(other.cancelled.wait(), 20)
        assert await gateway.metric("gateway_requests_in_flight") == 0

    run(scenario)


def test_what_is_refused_later_is_an_event(begins_at_once: None, caplog: pytest.LogCaptureFixture) -> None:
    """Objects that were sent stand; the request counts as an error."""
    caplog.set_level(logging.INFO, "gateway.access")

    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway, **request("a;b;c")) as (response, events):
            (await triton.wait_for("segment a")).answer("a", count=2)
            assert [(await anext(events))[0] for _ in range(3)] == ["accepted", "object", "object"]
            other = await triton.wait_for("segment b")
            (await triton.wait_for("segment c")).refuse(grpc.StatusCode.UNAVAILABLE, "[overloaded] later")
            ((name, error),) = [event async for event in events]
            assert response.status_code == 200
        request_id = response.headers["X-Request-ID"]
        body = {"status": "error", "detail": "later", "code": "overloaded", "request_id": request_id}
        assert (name, error) == ("error", body)
        await asyncio.wait_for(other.cancelled.wait(), 20)
        await gateway.wait_for_metric(1, "gateway_requests_total", route=PATH, status="503")
        assert await gateway.metric("gateway_requests_rejected_total", reason="overloaded") == 1

    run(scenario)
    (line,) = [record.fields for record in caplog.records if record.fields["route"] == PATH]  # type: ignore[attr-defined]
    assert (line["status"], line["code"], line["objects"], line["image_bytes"]) == (503, "overloaded", 2, len(IMAGE))
    assert set(line["phases_ms"]) == {"receive", "inference", "encode"}
    assert "AioRpcError" not in line.get("cause", "")


def test_a_target_that_fails_does_not_lose_the_others(begins_late: None) -> None:
    """As where the engine is asked for all of them at once."""

    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with asyncio.TaskGroup() as group:
            response = group.create_task(gateway.client.post(PATH, **request("a;b")))
            (await triton.wait_for("segment a")).refuse(grpc.StatusCode.INTERNAL, "[internal] the model failed")
            (await triton.wait_for("segment b")).answer("b")
        *_, done = [json.loads(line[6:]) for line in response.result().text.splitlines() if line.startswith("data")]
        assert done["targets"] == [
            {"target": "a", "finish_reason": "error"},
            {"target": "b", "finish_reason": "eos"},
        ]
        async with asyncio.TaskGroup() as group:
            response = group.create_task(gateway.client.post(PATH, **request("c;d")))
            for target in "cd":
                refused = await triton.wait_for(f"segment {target}")
                refused.refuse(grpc.StatusCode.INTERNAL, "[internal] the model failed")
        assert (response.result().status_code, response.result().json()["code"]) == (502, "internal")

    run(scenario)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"data": {"prompt": "a"}}, 400, "missing_image"),
        ({"files": {"image_file": IMAGE}}, 422, "invalid_request"),
        (request("a", mask_fromat="rle"), 422, "invalid_request"),
        ({"content": b"x"}, 415, "unsupported_media_type"),
        ({"json": {"prompt": "a", "image_url": "http://127.0.0.1/"}}, 400, "fetch_failed"),
    ],
)
def test_a_request_that_is_wrong_is_answered_as_elsewhere(sent: dict[str, Any], status: int, code: str) -> None:
    async def scenario(_: ToldTriton, gateway: ServedGateway) -> None:
        response = await gateway.client.post(PATH, **sent)
        assert (response.status_code, response.json()["code"]) == (status, code)

    run(scenario)


@pytest.mark.parametrize("begins", [True, False])
def test_what_nobody_foresaw(begins: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets an id and nothing else, as an event where there were events before."""

    def fail(*_: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(stream, "BEGIN_AFTER_S", 0.0 if begins else NEVER_S)
    monkeypatch.setattr(stream, "build_masks", fail)

    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        asking = asyncio.create_task(gateway.client.post(PATH, **request("a;b")))
        (await triton.wait_for("segment a")).answer("a")
        response = await asking
        assert response.status_code == (200 if begins else 500)
        assert ("event: error" in response.text) == begins
        assert "the log has the cause" in response.text and "secret" not in response.text
        await gateway.wait_for_metric(1, "gateway_requests_total", route=PATH, status="500")

    run(scenario)
    (failure,) = [record for record in caplog.records if record.name == "gateway.errors"]
    assert failure.exc_info and str(failure.exc_info[1]) == "a secret of ours"
