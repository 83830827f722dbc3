"""HTTP requests as prepared bytes: clients for load tests that cost next to nothing themselves."""

import asyncio
import time
from dataclasses import dataclass

BOUNDARY = "a-boundary"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    sent_at: float
    latency_s: float

    @property
    def received_at(self) -> float:
        return self.sent_at + self.latency_s


def segment_request(image: bytes, prompt: str = "segment cat") -> bytes:
    """A multipart POST of an image and a prompt."""
    disposition = "Content-Disposition: form-data; name="
    body = b"".join(
        [
            f'--{BOUNDARY}\r\n{disposition}"prompt"\r\n\r\n{prompt}\r\n'.encode(),
            f'--{BOUNDARY}\r\n{disposition}"image_file"; filename="a.jpg"\r\n'.encode(),
            b"Content-Type: image/jpeg\r\n\r\n" + image + f"\r\n--{BOUNDARY}--\r\n".encode(),
        ]
    )
    head = (
        f"POST /segment HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(port: int, request: bytes) -> Reply:
    """Sends a request on a connection of its own and reads the whole reply."""
    sent_at = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        received = await reader.read()
    finally:
        writer.transport.abort()  # whatever was not sent yet: a refusal comes before the end of a request
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Reply(int(status_line.split()[1]), headers, body, sent_at, time.monotonic() - sent_at)


async def ask_and_leave(port: int, request: bytes, after_s: float) -> None:
    """Sends a request and goes away without waiting for the reply."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    await asyncio.sleep(after_s)
    writer.transport.abort()
