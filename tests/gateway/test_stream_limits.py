"""POST /segment/stream: what one request may take, and what is left when it ends; real connections."""

import asyncio

import grpc
import pytest
from raw_http import segment_request
from served_gateway import ServedGateway
from streams import IMAGE, PATH, answer_all, request, run, streamed
from told_triton import ToldTriton

from gateway.call import model_time_s

MEGABYTE = 1_000_000


def test_a_request_of_many_targets_takes_one_place() -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway) as (_, events):
            await triton.wait_for("segment d")
            assert await gateway.metric("gateway_requests_in_flight") == 1
            response = await gateway.client.post(PATH, **request("e"))
            assert (response.status_code, response.json()["code"]) == (503, "overloaded")
            await answer_all(triton, "abcd")
            assert [name async for name, _ in events][-1] == "done"
        assert await gateway.metric("gateway_requests_in_flight") == 0

    run(scenario, max_concurrent_requests=1)


def test_a_client_that_leaves_ends_all_of_its_targets(begins_at_once: None) -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway) as (_, events):
            (await triton.wait_for("segment a")).answer("a")
            assert [(await anext(events))[0] for _ in range(2)] == ["accepted", "object"]
            running = [await triton.wait_for(f"segment {target}") for target in "bcd"]
        await asyncio.wait_for(asyncio.gather(*(asked.cancelled.wait() for asked in running)), 20)
        await gateway.wait_for_metric(1, "gateway_requests_total", route=PATH, status="499")
        assert await gateway.metric("gateway_requests_rejected_total", reason="client_disconnected") == 1
        for gauge in ("gateway_requests_in_flight", "gateway_body_bytes_in_flight"):
            assert await gateway.metric(gauge) == 0

    run(scenario)


def test_the_deadline_ends_it(begins_at_once: None) -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway, **request("a;b")) as (_, events):
            names = [(name, data.get("code")) async for name, data in events]
        assert (names[0][0], names[-1]) == ("accepted", ("error", "deadline"))
        for target in "ab":
            await asyncio.wait_for((await triton.wait_for(f"segment {target}")).cancelled.wait(), 20)
        await gateway.wait_for_metric(1, "gateway_requests_total", route=PATH, status="504")

    run(scenario, request_timeout_s=2)


def test_targets_whose_time_was_up_do_not_lose_the_others(begins_at_once: None) -> None:
    """As where the engine is asked for all of them at once."""

    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway, **request("a;b;c")) as (_, events):
            for target, refusal in (("a", "[deadline] the time was up"), ("c", "[internal] the model failed")):
                asked = await triton.wait_for(f"segment {target}")
                asked.refuse(grpc.StatusCode.CANCELLED, refusal)
            (await triton.wait_for("segment b")).answer("b")
            received = [event async for event in events]
        assert [name for name, _ in received] == ["accepted", "object", "done"]
        assert received[-1][1]["targets"] == [
            {"target": "a", "finish_reason": "deadline"},
            {"target": "b", "finish_reason": "eos"},
            {"target": "c", "finish_reason": "error"},
        ]
        async with streamed(gateway, **request("d;e")) as (_, events):
            (await triton.wait_for("segment d")).refuse(grpc.StatusCode.CANCELLED, "[internal] the model failed")
            (await triton.wait_for("segment e")).refuse(grpc.StatusCode.CANCELLED, "[deadline] the time was up")
            assert [event async for event in events][-1][1]["code"] == "deadline"

    run(scenario)


def test_a_target_that_never_answers_does_not_lose_the_others(begins_at_once: None) -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway, **request("a;b")) as (_, events):
            (await triton.wait_for("segment b")).answer("b")
            received = [event async for event in events]
        assert [name for name, _ in received] == ["accepted", "object", "done"]
        assert [target["finish_reason"] for target in received[-1][1]["targets"]] == ["deadline", "eos"]

    run(scenario, request_timeout_s=2)


@pytest.mark.parametrize(
    ("remaining_s", "model_s"), [(300.0, 298.0), (60.0, 58.0), (20.0, 19.0), (0.5, 0.45), (0.08, 0.04)]
)
def test_the_model_gets_less_than_all_of_the_time(remaining_s: float, model_s: float) -> None:
    assert model_time_s(remaining_s) == pytest.approx(model_s)


def test_triton_is_told_a_time_that_leaves_some_for_its_answer() -> None:
    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(gateway.client.post("/segment", **request("a")))
            asked = await triton.wait_for("segment a")
            asked.answer("a")
        assert 0 < asked.message.parameters["timeout"].int64_param <= 19e6

    run(scenario, request_timeout_s=20)


def test_each_targets_copy_of_the_image_counts(begins_at_once: None) -> None:
    image = bytes(MEGABYTE)
    gauge = "gateway_body_bytes_in_flight"

    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        async with streamed(gateway, **request(image=image)) as (_, events):
            assert (await anext(events))[0] == "accepted"
            held = await gateway.metric(gauge)
            assert 4 * MEGABYTE <= held < 4.1 * MEGABYTE
            refused = await gateway.client.post(PATH, **request(image=image))
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            await answer_all(triton, "abcd")
            assert [name async for name, _ in events][-1] == "done"
        await gateway.wait_for_metric(0, gauge)

    run(scenario, max_body_bytes_in_flight=7 * MEGABYTE, max_image_bytes=2 * MEGABYTE)


def test_what_the_client_has_not_read_counts(begins_at_once: None) -> None:
    """Objects in millions of bytes, and a client that reads nothing until the test has seen them counted."""
    gauge = "gateway_body_bytes_in_flight"

    async def scenario(triton: ToldTriton, gateway: ServedGateway) -> None:
        sent = segment_request(IMAGE, "segment a").replace(b"POST /segment ", b"POST /segment/stream ")
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1000)
        writer.write(sent)
        (await triton.wait_for("segment a")).answer(count=6000)
        async with asyncio.timeout(20):
            while await gateway.metric(gauge) < 5 * MEGABYTE:
                await asyncio.sleep(0.02)
        received = 0
        while piece := await reader.read(MEGABYTE):
            received += len(piece)
        assert received > 5 * MEGABYTE
        await gateway.wait_for_metric(0, gauge)
        writer.close()
        await writer.wait_closed()

    run(scenario)
