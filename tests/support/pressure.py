"""Clients that go on asking while something happens to the servers."""

import asyncio
from collections.abc import Callable

from raw_http import Reply, ask, segment_request


def some_bytes(client: int, number: int) -> bytes:
    """A request whose picture nobody else sends; only for stand-ins, which do not look at it."""
    return segment_request(f"picture {client} {number}".encode())


async def ask_while(
    port: int, wanted: Callable[[], bool], *, clients: int, make: Callable[[int, int], bytes] = some_bytes
) -> list[Reply]:
    """Requests from so many clients at once, each with one at a time, as long as they are wanted."""
    replies: list[Reply] = []

    async def work(client: int) -> None:
        while wanted():
            replies.append(await ask(port, make(client, len(replies))))

    await asyncio.gather(*(work(client) for client in range(clients)))
    return replies


def under_load(
    port: int, disturb: Callable[[], None], *, clients: int, make: Callable[[int, int], bytes] = some_bytes
) -> list[Reply]:
    """Asks while something happens; every client has had answers before it begins, and has answers after it ends."""

    async def run() -> list[Reply]:
        replies_before = asyncio.create_task(ask_while(port, once(clients), clients=clients, make=make))
        before = await replies_before
        going_on = True
        asking = asyncio.create_task(ask_while(port, lambda: going_on, clients=clients, make=make))
        await asyncio.to_thread(disturb)
        going_on = False
        return [*before, *await asking]

    return asyncio.run(run())


def once(clients: int) -> Callable[[], bool]:
    """Says yes as many times as there are clients."""
    left = iter(range(clients))
    return lambda: next(left, None) is not None
