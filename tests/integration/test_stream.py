"""POST /segment/stream over the real stack, with the client and without."""

import asyncio
import base64
import io
import json
import urllib.request
from typing import Any

import httpx2
import numpy as np
import psutil
import pycocotools.mask
import pytest
from front import bytes_in_flight, in_flight, metric
from PIL import Image
from stack import REPOSITORY, wait_until

from paligemma_client import AsyncClient, Client

TARGETS = ["blue star", "cyan ring", "yellow heart", "green diamond"]
PROMPT = f"segment {' ; '.join(TARGETS)}"
SAMPLE = REPOSITORY / "docs" / "sample.png"
LEAVING = 100
AT_ONCE = 32
SLACK_BYTES = 40_000_000  # what a process may keep of its first storm
GONE = 'gateway_requests_total{route="/segment/stream",status="499"}'


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event: ")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def answers_of(stack: Any, fields: dict[str, str], *, streams: int, plain: int) -> list[str]:
    """The bodies of so many of each, asked at once."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=stack.url, timeout=60, limits=limits, trust_env=False) as client:
        paths = ["/segment/stream"] * streams + ["/segment"] * plain
        files = {"image_file": SAMPLE.read_bytes()}
        responses = await asyncio.gather(*(client.post(path, data=fields, files=files) for path in paths))
    assert {response.status_code for response in responses} == {200}
    return [response.text for response in responses]


def by_target(masks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(masks, key=lambda found: found["target"])  # stable: the order within a target stays


def check_same_mask(mask: Any, expected: Any) -> None:
    """Up to rounding: the decoder's sums depend on how many masks it decodes at once."""
    if isinstance(expected, str):
        one, other = (Image.open(io.BytesIO(base64.b64decode(each))) for each in (mask, expected))
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    elif isinstance(expected, dict):
        assert (pycocotools.mask.decode(mask) != pycocotools.mask.decode(expected)).sum() <= 2
    elif expected is not None:
        for ring, expected_ring in zip(mask, expected, strict=True):
            np.testing.assert_allclose(ring, expected_ring, atol=1e-4)


def check_same(streamed: str, plain: str) -> None:
    """A stream's objects and its end are what /segment answers."""
    expected = json.loads(plain)
    (first, accepted), *objects, (last, done) = events_of(streamed)
    assert (first, last) == ("accepted", "done")
    assert accepted["targets"] == [target["target"] for target in expected["targets"]]
    found, masks = by_target([data["object"] for _, data in objects]), expected.pop("masks")
    for one, other in zip(found, masks, strict=True):
        check_same_mask(one.pop("mask"), other.pop("mask"))
    assert found == masks
    for own in ("request_id", "timings_ms"):
        assert set(done.pop(own)) and expected.pop(own)
    assert done == expected


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        (PROMPT, {}),
        (PROMPT, {"mask_format": "rle", "coordinate_space": "original", "overlay": "true", "return_image": "false"}),
        ("blue star; red car ;cyan ring;blue star", {"mask_format": "polygon", "coordinate_space": "normalized"}),
        ("detect blue star ; cyan ring", {"min_score": "0.1"}),
        ("segment red car", {"max_new_tokens": "4"}),
    ],
)
def test_a_stream_says_what_segment_says(stack: Any, prompt: str, fields: dict[str, str]) -> None:
    streamed, plain = asyncio.run(answers_of(stack, {"prompt": prompt, **fields}, streams=1, plain=1))
    check_same(streamed, plain)


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [("segment a;b;c;d;e;f;g;h;i", 422, "invalid_prompt"), (" ", 422, "invalid_prompt")],
)
def test_what_the_engine_refuses_has_its_status(stack: Any, prompt: str, status: int, code: str) -> None:
    files = {"image_file": SAMPLE.read_bytes()}
    response = httpx2.post(f"{stack.url}/segment/stream", data={"prompt": prompt}, files=files, timeout=60)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_many_streams_beside_many_others_lose_nothing(stack: Any) -> None:
    answers = asyncio.run(answers_of(stack, {"prompt": PROMPT}, streams=AT_ONCE, plain=AT_ONCE))
    for streamed, plain in zip(answers[:AT_ONCE], answers[AT_ONCE:], strict=True):
        check_same(streamed, plain)
    assert (in_flight(stack.ports), bytes_in_flight(stack.ports)) == (0, 0)


def test_the_client_reads_streams(stack: Any) -> None:
    async def read() -> list[Any]:
        async with AsyncClient(stack.url) as client:
            return [found async for found in client.stream(SAMPLE, TARGETS)]

    with Client(stack.url) as client:
        expected = client.segment(SAMPLE, TARGETS).objects
        streams = [list(client.stream(SAMPLE, TARGETS)), asyncio.run(read())]
    assert [found.target for found in expected] == TARGETS
    for streamed in streams:
        found = sorted(streamed, key=lambda each: TARGETS.index(each.target or ""))
        assert [(each.box_xyxy, each.score) for each in found] == [(each.box_xyxy, each.score) for each in expected]
        for one, other in zip(found, expected, strict=True):
            check_same_mask(one.rle(), other.rle())


def engine_is_idle(stack: Any) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.ports.metrics}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    gauges = ("paligemma_active_slots{", "paligemma_pending_requests{")
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(gauges)) == 0


def test_clients_that_leave_in_the_middle_leave_nothing(stack: Any) -> None:
    async def leave(client: httpx2.AsyncClient) -> None:
        files = {"image_file": SAMPLE.read_bytes()}
        async with client.stream("POST", "/segment/stream", data={"prompt": PROMPT}, files=files) as response:
            if response.status_code == 200:
                await anext(response.aiter_lines())

    async def storm() -> None:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=stack.url, timeout=60, limits=limits, trust_env=False) as client:
            await asyncio.gather(*(leave(client) for _ in range(LEAVING)))

    def settled() -> bool:
        return in_flight(stack.ports) == bytes_in_flight(stack.ports) == 0 and engine_is_idle(stack)

    gateway = psutil.Process(stack.gateway_pid)
    asyncio.run(storm())
    wait_until(settled, 60, "nothing is held after the first storm")
    gone, before = metric(stack.ports, GONE), gateway.memory_info().rss
    asyncio.run(storm())
    wait_until(settled, 60, "nothing is held after the second storm")
    assert metric(stack.ports, GONE) > gone
    assert gateway.memory_info().rss - before < SLACK_BYTES
    streamed, plain = asyncio.run(answers_of(stack, {"prompt": PROMPT}, streams=1, plain=1))
    check_same(streamed, plain)
