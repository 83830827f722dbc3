"""The gateway's connection to a Triton that was away for a while."""

import asyncio
import time

from stack import Ports, fixed_delay_triton

from gateway.triton import TritonSegmenter

AWAY_S = 6.5  # by then gRPC's own default waits several seconds between attempts
FOUND_AGAIN_S = 1.5


def test_triton_is_found_again_at_once() -> None:
    """gRPC waits up to two minutes between attempts to connect: Triton was long back and the gateway said 503."""
    ports = Ports.free()

    async def find_again() -> float:
        segmenter = TritonSegmenter(f"127.0.0.1:{ports.grpc}")
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
