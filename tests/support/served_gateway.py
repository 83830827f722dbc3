"""The gateway's application behind a real server, in the test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import create_app
from gateway.door.protocol import GatewayProtocol
from gateway.settings import Settings

CALL_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ServedGateway:
    """A running one, and a client of it."""

    client: httpx2.AsyncClient
    port: int

    async def metric(self, name: str, **labels: str) -> float:
        """0 where it has not been counted yet."""
        text = (await self.client.get("/metrics")).text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return next((sample.value for sample in samples if sample.name == name and sample.labels == labels), 0.0)

    async def wait_for_metric(self, value: float, name: str, **labels: str) -> None:
        """Returns when it has this value."""
        async with asyncio.timeout(CALL_TIMEOUT_S):
            while await self.metric(name, **labels) != value:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def served_gateway(triton_port: int, **settings: Any) -> AsyncIterator[ServedGateway]:
    """With its own middleware and protocol, before a Triton on this port."""
    app = create_app(Settings(triton_grpc_url=f"127.0.0.1:{triton_port}", **settings))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=GatewayProtocol, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    port = int(listener.getsockname()[1])
    try:
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=CALL_TIMEOUT_S, trust_env=False
        ) as client:
            yield ServedGateway(client, port)
    finally:
        server.should_exit = True
        await serving
