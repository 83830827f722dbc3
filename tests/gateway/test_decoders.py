"""Bodies that wait for a thread that decodes them, and threads that take long."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from raw_http import segment_request
from starlette.types import Message, Receive, Scope

from gateway.app import create_app
from gateway.inputs import read
from gateway.services import Services
from gateway.settings import Settings

TIMEOUT_S = 1.0
HEAD, BODY = segment_request(b"x").split(b"\r\n\r\n", 1)
HEADERS = [tuple(line.lower().split(b": ", 1)) for line in HEAD.splitlines()[1:]]
SCOPE: Scope = {"type": "http", "method": "POST", "path": "/segment", "query_string": b"", "headers": HEADERS}
Ask = Callable[[Receive], Awaitable[int]]


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Services, Ask]]:
    """The application's services, and what serves one request and returns the status of its answer."""
    app = create_app(Settings(triton_grpc_url="127.0.0.1:1", request_timeout_s=TIMEOUT_S))

    async def ask(receive: Receive) -> int:
        statuses: list[int] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await app({**SCOPE, "app": app}, receive, send)
        return statuses[0]

    async with app.router.lifespan_context(app):
        yield app.state.services, ask


def client(*, leaves: bool) -> Receive:
    """A client that sends its request at once, and then leaves or waits."""
    messages = iter([{"type": "http.request", "body": BODY}])

    async def receive() -> Message:
        if (message := next(messages, None)) is None:
            await asyncio.sleep(0 if leaves else 600)
            message = {"type": "http.disconnect"}
        return message

    return receive


@pytest.mark.parametrize(("leaves", "status"), [(False, 504), (True, 499)])
def test_a_body_that_waits_for_a_decoder(leaves: bool, status: int) -> None:
    """The client was told that it had sent too slowly, and one that had left was not noticed."""

    async def run() -> int:
        async with running() as (services, ask):
            for _ in range(int(services.decoders.total_tokens)):
                services.decoders.acquire_on_behalf_of_nowait(object())
            return await ask(client(leaves=leaves))

    assert asyncio.run(run()) == status


def test_a_decoder_is_taken_for_as_long_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ones began when the time of the first ones' requests was up, although these worked on."""
    begun, over = threading.Event(), threading.Event()

    def decode_body(*_: Any) -> Any:
        begun.set()
        over.wait()
        return {}

    monkeypatch.setattr(read, "decode_body", decode_body)

    async def run() -> int:
        async with running() as (services, ask):
            request = asyncio.ensure_future(ask(client(leaves=False)))
            try:
                assert await asyncio.to_thread(begun.wait, 10)
                await asyncio.wait({request}, timeout=2 * TIMEOUT_S)
                assert services.decoders.borrowed_tokens == 1
            finally:
                over.set()
            return await request

    assert asyncio.run(run()) in (400, 422, 504)
