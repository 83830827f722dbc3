"""Measures what hostile clients cost the gateway: latency of /healthz, memory, and normal requests during each attack.

    python scripts/gateway_attacks.py [NAME ...]

Starts a gateway for each attack, with a stand-in for Triton that answers after a fixed time. While the attack runs,
a process polls /healthz, a thread sends normal requests, a thread reads the gateway's memory. Prints a line per attack.
"""

import argparse
import base64
import contextlib
import multiprocessing
import os
import socket
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final

import psutil

from parts.stand_in import STAND_IN, child

HOST: Final = "127.0.0.1"
IMAGE_BYTES: Final = 19_900_000  # a little less than MAX_IMAGE_BYTES
DELAY_S: Final = 3.0  # of the stand-in's answers
PARALLEL: Final = 1000
START_TIMEOUT_S: Final = 60.0
CALL_TIMEOUT_S: Final = 90.0
SLOW_S: Final = 15.0  # how long slow clients keep sending
PROBE_PAUSE_S: Final = 0.02
BOUNDARY: Final = "a-boundary"
MULTIPART: Final = f"multipart/form-data; boundary={BOUNDARY}"
URLENCODED: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"


@dataclass
class Seen:
    """Measurements taken while an attack ran."""

    health_s: float = 0.0
    normal: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0


def main() -> int:
    """Runs the attacks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ATTACKS))
    parser.add_argument("--uploads", type=int, default=64, help="large uploads at once")
    arguments = parser.parse_args()
    for name in arguments.names or ATTACKS:
        with running_gateway() as (port, process):
            run(name, lambda port=port, attack=ATTACKS[name]: attack(port, arguments.uploads), port, process)  # type: ignore[misc]
    return 0


@contextlib.contextmanager
def running_gateway() -> Iterator[tuple[int, psutil.Process]]:
    """Runs a gateway and its stand-in for Triton; ends both with the context."""
    triton_port, port = free_port(), free_port()
    environ = {**os.environ, "TRITON_GRPC_URL": f"{HOST}:{triton_port}", "GATEWAY_PORT": str(port)}
    stand_in = [sys.executable, str(STAND_IN), str(triton_port), str(DELAY_S), str(PARALLEL)]
    with (
        child(stand_in, dict(os.environ)),
        child([sys.executable, "-m", "gateway"], environ) as gateway,
    ):
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not is_ready(port):
            if time.monotonic() > give_up_at:
                raise TimeoutError("the gateway is not ready")
            time.sleep(0.1)
        yield port, psutil.Process(gateway.pid)


def free_port() -> int:
    """Returns an unused port."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def is_ready(port: int) -> bool:
    """Whether the gateway and its Triton answer."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=5) as response:
            return bool(response.status == 200)  # noqa: PLR2004
    except OSError:
        return False


def run(name: str, attack: Callable[[], "Counter[str]"], port: int, process: psutil.Process) -> None:
    """Runs an attack with its watchers, and prints its line. A separate process polls /healthz: this one is busy."""
    seen, ended = Seen(), threading.Event()
    before_bytes = process.memory_info().rss
    receiving, sending = multiprocessing.Pipe(duplex=False)
    asking = multiprocessing.Process(target=ask_health, args=(port, sending), daemon=True)
    asking.start()
    watchers = [
        threading.Thread(target=watch, args=arguments)
        for arguments in (
            (ended, PROBE_PAUSE_S, lambda: read_memory(process, seen)),
            (ended, 1.0, lambda: seen.normal.update([exchange(port, segment(b"x" * 100_000))])),
        )
    ]
    for watcher in watchers:
        watcher.start()
    started = time.monotonic()
    replies = attack()
    seconds = time.monotonic() - started
    ended.set()
    for watcher in watchers:
        watcher.join()
    asking.terminate()
    while receiving.poll():
        seen.health_s = max(seen.health_s, receiving.recv())
    print(
        f"{name:<14} {seconds:5.1f} s   /healthz at worst {seen.health_s:5.2f} s   "
        f"memory +{(seen.peak_bytes - before_bytes) / 1e6:4.0f} MB, afterwards "
        f"+{(process.memory_info().rss - before_bytes) / 1e6:4.0f} MB   "
        f"attackers {dict(replies)}   normal requests {dict(seen.normal)}",
        flush=True,
    )


def watch(ended: threading.Event, pause_s: float, look: Callable[[], None]) -> None:
    """Calls `look` every `pause_s` seconds until the attack has ended; the first time after one pause."""
    while not ended.wait(pause_s):
        look()


def ask_health(port: int, sending: Connection) -> None:
    """Polls /healthz, each time on a new connection; sends each new maximum of the latency to the parent."""
    slowest_s = 0.0
    while True:
        started = time.monotonic()
        exchange(port, f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        if (seconds := time.monotonic() - started) > slowest_s:
            slowest_s = seconds
            sending.send(seconds)
        time.sleep(PROBE_PAUSE_S)


def read_memory(process: psutil.Process, seen: Seen) -> None:
    """Records the peak resident memory."""
    seen.peak_bytes = max(seen.peak_bytes, process.memory_info().rss)


def exchange(port: int, request: bytes) -> str:
    """Sends a request as fast as possible; returns the status, or how it failed."""
    try:
        with socket.create_connection((HOST, port), timeout=CALL_TIMEOUT_S) as connection:
            with contextlib.suppress(ConnectionError):  # refused before it was complete: the answer may have arrived
                connection.sendall(request)
            return status_of(connection)
    except OSError as error:
        return type(error).__name__


def trickle(port: int, request: bytes, at_once: int) -> str:
    """Sends the first `at_once` bytes of a request at once, then one byte per second."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(request[:at_once])
            for position in range(at_once, at_once + int(SLOW_S)):
                with contextlib.suppress(TimeoutError):
                    return status_of(connection)
                connection.sendall(request[position : position + 1])
            return "still connected"
    except OSError as error:
        return type(error).__name__


def status_of(connection: socket.socket) -> str:
    """Reads the whole answer; returns its status."""
    head = connection.recv(65_536)
    while connection.recv(65_536):
        pass
    return head.split(b" ", 2)[1].decode() if head else "closed"


def together(count: int, work: Callable[[], str]) -> "Counter[str]":
    """Does the same work from `count` clients at once."""
    replies: Counter[str] = Counter()
    clients = [threading.Thread(target=lambda: replies.update([work()])) for _ in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return replies


def post(body: bytes, content_type: str) -> bytes:
    """A POST to /segment."""
    head = f"POST /segment HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def part(name: str, content: bytes) -> bytes:
    """A part of a multipart body."""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n"


def segment(image: bytes, content_type: str = MULTIPART, prompt: bytes = b"cat") -> bytes:
    """An upload."""
    upload = part('image_file"; filename="a.jpg', image)
    return post(part("prompt", prompt) + upload + f"--{BOUNDARY}--\r\n".encode(), content_type)


def json_image(url: bytes) -> bytes:
    """A JSON body with an image."""
    return post(b'{"prompt": "cat", "image_url": "' + url + b'"}', JSON)


def base64_json() -> bytes:
    """A large image as base64 in JSON."""
    return json_image(b"data:image/png;base64," + base64.b64encode(bytes(IMAGE_BYTES)))


def chunked() -> bytes:
    """Six megabytes that carry one: every chunk has one byte."""
    head = f"POST /segment HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Type: {JSON}\r\n"
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"1\r\n \r\n" * 1_000_000 + b"0\r\n\r\n"


def keys() -> bytes:
    """A JSON object with two million keys."""
    return post(b"{" + b",".join(b'"%x":1' % number for number in range(2_000_000)) + b"}", JSON)


def repeat(count: int, make: Callable[[], bytes]) -> Callable[[int, int], "Counter[str]"]:
    """An attack that sends the same request from `count` clients; 0: from as many as --uploads."""

    def attack(port: int, uploads: int) -> "Counter[str]":
        request = make()
        return together(count or uploads, lambda: exchange(port, request))

    return attack


def slow(count: int, at_once: int) -> Callable[[int, int], "Counter[str]"]:
    """An attack by `count` clients that send their request slowly after the first `at_once` bytes."""
    request = segment(bytes(1_000_000))
    return lambda port, _uploads: together(count, lambda: trickle(port, request, at_once))


ATTACKS: Final[dict[str, Callable[[int, int], "Counter[str]"]]] = {
    "percent": repeat(4, lambda: json_image(b"data:," + b"%00" * 6_500_000)),
    "percent-many": repeat(1, lambda: json_image(b"data:," + b"%00" * 9_000_000)),
    "urlencoded": repeat(4, lambda: post(b"prompt=cat&image_url=data:," + b"%25" * 8_000_000, URLENCODED)),
    "nested": repeat(1, lambda: post(b"[" * 13_000_000 + b"]" * 13_000_000, JSON)),
    "lists": repeat(2, lambda: post(b'{"a":[' + b"[]," * 8_000_000 + b"[]]}", JSON)),
    "keys": repeat(2, keys),
    "escapes": repeat(4, lambda: json_image(b"data:image/png;base64," + b"\\u0041" * 4_000_000)),
    "charset": repeat(4, lambda: segment(b"x", f"{MULTIPART}; charset=punycode", b"\xff-" + b"a" * 100_000)),
    "chunked": repeat(4, chunked),
    "slow-bodies": slow(80, 1000),
    "slow-headers": slow(80, 30),
    "uploads": repeat(0, lambda: segment(bytes(IMAGE_BYTES))),
    "uploads-json": repeat(0, base64_json),
}


if __name__ == "__main__":
    sys.exit(main())
