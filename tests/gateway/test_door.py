"""The real gateway and clients that want more of it than their share."""

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import Iterator

import psutil
import pytest
from front import bytes_in_flight, in_flight, metric, running
from raw_http import BOUNDARY, ask, segment_request
from stack import ChildProcess, Ports, wait_until

MEGABYTE = 1_000_000
SMALL = segment_request(b"x" * 1000)
JSON_HEAD = "POST /segment HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
BUDGET = 60 * MEGABYTE
COPIES = 3  # of a body, that the gateway holds at most
SLACK = 60 * MEGABYTE  # what else grows: threads, buffers, and what the allocator keeps


@pytest.fixture(scope="module")
def narrow() -> Iterator[tuple[Ports, ChildProcess]]:
    """A gateway for four requests at once; its Triton answers at once."""
    settings = {"MAX_CONCURRENT_REQUESTS": "4", "MAX_IMAGE_BYTES": "3000000", "MAX_BODY_BYTES_IN_FLIGHT": "9000000"}
    with running(0.0, 100, **settings) as (ports, _, server):
        yield ports, server


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[Ports, ChildProcess, ChildProcess]]:
    """A gateway with room for three of the largest uploads; its Triton does not answer in time."""
    with running(600.0, 100, MAX_BODY_BYTES_IN_FLIGHT=str(BUDGET)) as started:
        yield started


def part_of(request: bytes, count: int, port: int) -> socket.socket:
    """A connection on which so many bytes of a request were sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(request[:count])
    return connection


def test_slow_uploads_keep_nobody_out(narrow: tuple[Ports, ChildProcess]) -> None:
    """A place is taken by whoever is there with all of the body."""
    ports, _ = narrow
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(part_of(segment_request(bytes(100_000)), 50_000, ports.gateway))
        wait_until(lambda: bytes_in_flight(ports) > 20 * 200_000, 20, "all of them are on their way")
        assert in_flight(ports) == 0
        assert asyncio.run(ask(ports.gateway, SMALL)).status == 200
    wait_until(lambda: bytes_in_flight(ports) == 0, 20, "nothing is held")


def test_bytes_in_flight_are_bounded(narrow: tuple[Ports, ChildProcess]) -> None:
    """The request that does not fit is told to come again; room is there again when others have gone."""
    ports, _ = narrow
    large = segment_request(bytes(2 * MEGABYTE))
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(part_of(large, len(large) - 1, ports.gateway))
        wait_until(lambda: bytes_in_flight(ports) > 8 * MEGABYTE, 20, "four of them are there")
        reply = asyncio.run(ask(ports.gateway, large))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert b'"code":"overloaded"' in reply.body
        assert asyncio.run(ask(ports.gateway, SMALL)).status == 200
    wait_until(lambda: bytes_in_flight(ports) == 0, 20, "nothing is held")
    assert asyncio.run(ask(ports.gateway, large)).status == 200


@pytest.mark.parametrize("form", ["multipart", "json"])
def test_memory_follows_the_bytes_in_flight(full: tuple[Ports, ChildProcess, ChildProcess], form: str) -> None:
    """As many large images as are let in, all waiting for Triton, take so many times their bytes and no more."""
    ports, triton, server = full
    image = bytes(19 * MEGABYTE)
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    body = json.dumps({"prompt": "cat", "image_url": url}).encode()
    by_json = f"{JSON_HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body
    request = segment_request(image) if form == "multipart" else by_json
    process = psutil.Process(server.process.pid)
    cancelled = triton.lines.count("cancelled")
    before = process.memory_info().rss
    peak = 0
    with contextlib.ExitStack() as stack:
        for number in range(1, BUDGET // len(request) + 1):
            stack.enter_context(part_of(request, len(request), ports.gateway))

            def is_served(number: int = number) -> bool:
                nonlocal peak
                peak = max(peak, process.memory_info().rss)
                return in_flight(ports) == number

            wait_until(is_served, 30, "the upload is there")
        assert asyncio.run(ask(ports.gateway, request)).status == 503
    print(f"{form}: {(peak - before) / bytes_per(request):.2f} bytes for each byte in flight")
    assert peak - before < COPIES * BUDGET + SLACK
    wait_until(lambda: triton.lines.count("cancelled") > cancelled, 20, "Triton's calls are cancelled")
    wait_until(lambda: bytes_in_flight(ports) == 0, 20, "nothing is held")


def bytes_per(request: bytes) -> int:
    return BUDGET // len(request) * len(request)


@pytest.mark.parametrize("charset", ["punycode", "undefined", "nonsense"])
def test_a_charset_is_not_a_way_to_any_decoder(narrow: tuple[Ports, ChildProcess], charset: str) -> None:
    ports, _ = narrow
    request = segment_request(b"x", "a" * 20_000).replace(
        f"boundary={BOUNDARY}".encode(), f"boundary={BOUNDARY}; charset={charset}".encode(), 1
    )
    reply = asyncio.run(ask(ports.gateway, request))
    assert (reply.status, b'"code":"unsupported_media_type"' in reply.body) == (415, True)


@pytest.mark.parametrize("request_body", [b"1\r\n \r\n" * 200_000], ids=["tiny chunks"])
def test_chunks_are_cheap(narrow: tuple[Ports, ChildProcess], request_body: bytes) -> None:
    """A body of the smallest chunks takes far less time than a parser in Python would take for it: 1.4 s."""
    ports, server = narrow
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    request = f"{JSON_HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + request_body + b"0\r\n\r\n"
    assert asyncio.run(ask(ports.gateway, request)).status in (400, 413)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.7


def test_a_slow_upload_is_counted_by_phase(narrow: tuple[Ports, ChildProcess]) -> None:
    """Also one that went away before it was admitted."""
    ports, _ = narrow
    phase = 'gateway_phase_seconds_count{phase="receive"}'
    counted = metric(ports, phase)
    with part_of(SMALL, 500, ports.gateway):
        wait_until(lambda: bytes_in_flight(ports) > 0, 20, "it is on its way")
    wait_until(lambda: metric(ports, phase) == counted + 1, 20, "it is counted")
