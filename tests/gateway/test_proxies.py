"""Variables that name a proxy, as Docker and companies set them for everybody: our own parts are no business of it."""

import asyncio

import pytest
from stack import Ports, fixed_delay_triton
from web import CANARY, Canary

from gateway.triton.client import TritonSegmenter

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "all_proxy")


def test_triton_is_not_called_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC sent the proxy a CONNECT for Triton's address, so the gateway was never ready."""
    ports, proxy = Ports.free(), Canary()
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def is_ready() -> bool:
        async with proxy.listening() as port:
            for name in PROXY_VARIABLES:
                monkeypatch.setenv(name, f"http://{CANARY}:{port}")
            segmenter = TritonSegmenter(f"127.0.0.1:{ports.grpc}", keepalive_s=10.0)
            ready = await segmenter.is_ready()
            await segmenter.close()
        return ready

    with fixed_delay_triton(ports, delay_s=0.0, parallel=1) as server:
        server.wait_for_line("ready", 20)
        assert asyncio.run(is_ready())
    assert proxy.accepted == 0
