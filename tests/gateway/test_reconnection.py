"""The gateway's connection to a Triton that was away for a while, or is there and silent."""

import asyncio
import signal
import time

import pytest
from stack import Ports, fixed_delay_triton

from gateway.errors import ApiError
from gateway.triton.client import TritonSegmenter
from gateway.triton.wire import SegmentRequest, SerializedRequest, serialize_request

AWAY_S = 6.5  # by then gRPC's own default waits several seconds between attempts
FOUND_AGAIN_S = 1.5


def test_triton_is_found_again_at_once() -> None:
    """gRPC waits up to two minutes between attempts to connect: Triton was long back and the gateway said 503."""
    ports = Ports.free()

    async def find_again() -> float:
        segmenter = TritonSegmenter(f"127.0.0.1:{ports.grpc}", keepalive_s=10.0)
        give_up_at = time.monotonic() + AWAY_S
        while time.monotonic() < give_up_at:
            assert not await segmenter.is_ready()
            await asyncio.sleep(0.1)
        with fixed_delay_triton(ports, delay_s=0.0, parallel=1) as server:
            await asyncio.to_thread(server.wait_for_line, "ready", 20)
            started = time.monotonic()
            while not await segmenter.is_ready():
                await asyncio.sleep(0.05)
                assert time.monotonic() - started < 30
            took_s = time.monotonic() - started
            await segmenter.close()
        return took_s

    assert asyncio.run(find_again()) <= FOUND_AGAIN_S


LONG_S = 300.0
KEEPALIVE_S = 0.5


def request(request_id: str) -> SerializedRequest:
    asked = SegmentRequest(
        image=b"", prompt="", model_id=None, max_new_tokens=None, timeout_s=LONG_S, request_id=request_id
    )
    return serialize_request(asked)


def test_a_triton_that_hangs_costs_seconds_and_no_deadline() -> None:
    """The running request, and the next one, which finds a port that accepts and is silent."""
    ports = Ports.free()

    async def ask() -> list[str]:
        segmenter = TritonSegmenter(f"127.0.0.1:{ports.grpc}", keepalive_s=KEEPALIVE_S)
        assert await segmenter.is_ready()
        running = asyncio.create_task(segmenter.segment(request("running"), timeout_s=LONG_S))
        await asyncio.to_thread(server.wait_for_line, "asked running", 20)
        server.process.send_signal(signal.SIGSTOP)
        codes = []
        for answer in (running, segmenter.segment(request("next"), timeout_s=LONG_S)):
            with pytest.raises(ApiError) as refused:
                await asyncio.wait_for(answer, LONG_S / 10)
            codes.append(refused.value.code)
        await segmenter.close()
        return codes

    with fixed_delay_triton(ports, delay_s=LONG_S, parallel=1) as server:
        server.wait_for_line("ready", 20)
        try:
            assert asyncio.run(ask()) == ["unavailable", "unavailable"]
        finally:
            server.process.send_signal(signal.SIGCONT)
            server.stop(signal.SIGKILL)
