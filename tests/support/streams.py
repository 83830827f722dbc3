"""Requests to /segment/stream, and their events as they come."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from served_gateway import ServedGateway, served_gateway
from told_triton import ToldTriton, told_triton

PATH = "/segment/stream"
IMAGE = b"a picture, as far as the gateway knows"
FOUR = "segment a ; b ; c ; d"

Event = tuple[str, dict[str, Any]]
Scenario = Callable[[ToldTriton, ServedGateway], Awaitable[None]]


def run(scenario: Scenario, **settings: Any) -> None:
    """Plays it between a Triton that is told and a gateway with these settings."""

    async def between() -> None:
        async with told_triton() as (triton, port), served_gateway(port, **settings) as gateway:
            await scenario(triton, gateway)

    asyncio.run(between())


def request(prompt: str = FOUR, image: bytes = IMAGE, **fields: Any) -> dict[str, Any]:
    return {"data": {"prompt": prompt, **fields}, "files": {"image_file": image}}


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """Events as they come; comments have the name `comment`."""
    name = ""
    async for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
        elif value == "keep-alive":
            yield "comment", {}


@contextlib.asynccontextmanager
async def streamed(gateway: ServedGateway, **sent: Any) -> AsyncIterator[tuple[Any, AsyncIterator[Event]]]:
    """The response, once it has begun, and its events."""
    async with gateway.client.stream("POST", PATH, **(sent or request())) as response:
        yield response, events_of(response.aiter_lines())


async def answer_all(triton: ToldTriton, targets: str) -> None:
    """One object for each of these targets, which have names of one letter."""
    for target in targets:
        (await triton.wait_for(f"segment {target}")).answer(target)
