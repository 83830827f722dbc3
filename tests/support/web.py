"""Small web servers for tests of fetching: one that answers as it is told, and one that nobody may reach."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

SITE = "127.0.0.2"  # the address that the tests open
CANARY = "127.0.0.1"  # the address that stays shut

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Site:
    """A server on SITE; `answers` by path, raw."""

    port: int
    answers: dict[str, Answer]
    heads: list[str] = field(default_factory=list)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str = "/image", *, host: str = "pictures.test", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            answer = self.answers[head.split()[1]]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        writer.close()
        self._running.discard(task)

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.sleep(0.02)  # for sockets and failed handshakes to be closed


def reply(body: bytes = b"", *, status: str = "200 OK", **headers: str) -> bytes:
    """A raw reply; names of headers with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"content-type": "image/png", "content-length": str(len(body)), **named}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return reply(status=status, location=location)


@contextlib.asynccontextmanager
async def site(answers: dict[str, Answer], *, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    served = Site(0, answers)
    server = await asyncio.start_server(served.serve, SITE, 0, ssl=ssl_context)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        await served.stop()


class Canary:
    """Listens on all that is local, and counts who comes."""

    def __init__(self) -> None:
        self.accepted = 0

    async def _accept(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[int]:
        """On a port of 127.0.0.1, and of ::1 where there is IPv6."""
        server = await asyncio.start_server(self._accept, CANARY, port)
        port = server.sockets[0].getsockname()[1]
        servers = [server]
        with contextlib.suppress(OSError):
            servers.append(await asyncio.start_server(self._accept, "::1", port, family=socket.AF_INET6))
        try:
            yield port
        finally:
            await asyncio.sleep(0.02)  # whoever is on the way arrives
            for server in servers:
                server.close()
