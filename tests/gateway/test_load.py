"""The gateway under more load than it can serve, before a Triton of known speed; real processes and sockets."""

import asyncio
import contextlib
import http.client
import io
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from front import in_flight, metric, running
from PIL import Image
from raw_http import Reply, ask, ask_and_leave, segment_request
from stack import ChildProcess, Ports, gateway, wait_until

PARALLEL = 4
DELAY_S = 0.2
CAPACITY_PER_S = PARALLEL / DELAY_S
DEADLINE_S = 5.0
WINDOW_S = (0.5, 3.5)  # completions are counted here, when the load has settled


@pytest.fixture(scope="module")
def request_bytes() -> bytes:
    picture = Image.radial_gradient("L").resize((640, 480)).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    return segment_request(buffer.getvalue())


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Ports, ChildProcess]]:
    """A gateway that lets four times as many in as its Triton serves at once."""
    settings = {"MAX_CONCURRENT_REQUESTS": str(4 * PARALLEL), "REQUEST_TIMEOUT_S": str(DEADLINE_S)}
    with running(DELAY_S, PARALLEL, **settings) as (ports, _, server):
        yield ports, server


@pytest.fixture(scope="module")
def slow() -> Iterator[tuple[Ports, ChildProcess, ChildProcess]]:
    """A gateway whose Triton answers nothing in time."""
    with running(60.0, 1000, MAX_CONCURRENT_REQUESTS="250") as started:
        yield started


async def offer(port: int, request: bytes, *, rate_per_s: float, duration_s: float) -> list[Reply]:
    """Requests at a steady rate, whatever becomes of them."""
    started = time.monotonic()
    tasks = []
    for number in range(int(rate_per_s * duration_s)):
        await asyncio.sleep(max(0.0, started + number / rate_per_s - time.monotonic()))
        tasks.append(asyncio.create_task(ask(port, request)))
    return await asyncio.wait_for(asyncio.gather(*tasks), 3 * DEADLINE_S)


def goodput_per_s(ports: Ports, request: bytes, factor: int) -> float:
    """Answers per second at so many times the capacity; what is refused is refused properly, the rest in time."""
    started = time.monotonic()
    rate_per_s = factor * CAPACITY_PER_S
    replies = asyncio.run(offer(ports.gateway, request, rate_per_s=rate_per_s, duration_s=WINDOW_S[1]))
    accepted = [reply for reply in replies if reply.status == 200]
    refused = [reply for reply in replies if reply.status != 200]
    counted = [reply for reply in accepted if WINDOW_S[0] <= reply.received_at - started < WINDOW_S[1]]
    measured = len(counted) / (WINDOW_S[1] - WINDOW_S[0])
    latencies_s = sorted(reply.latency_s for reply in accepted)
    print(f"{factor}x: {measured:.1f}/s, {len(refused)} refused, slowest {latencies_s[-1]:.2f} s")
    assert latencies_s[int(0.99 * len(latencies_s))] < DEADLINE_S
    assert {reply.status for reply in refused} <= {503}
    assert all(reply.headers["retry-after"] == "1" for reply in refused)
    return measured


def test_overload_costs_no_goodput(loaded: tuple[Ports, ChildProcess], request_bytes: bytes) -> None:
    """More load than capacity: as many answers as ever, in time; the others are refused at once and told to wait."""
    ports, _ = loaded
    best = {factor: goodput_per_s(ports, request_bytes, factor) for factor in (1, 2, 4, 8)}
    for _ in range(2):  # others who use this machine can only lower a figure, so a low one is measured again
        for factor, measured in best.items():
            if measured < 0.9 * max(best.values()):
                best[factor] = max(measured, goodput_per_s(ports, request_bytes, factor))
    assert min(best.values()) >= 0.9 * max(best.values()), best
    assert in_flight(ports) == 0


def test_a_refusal_is_cheap(slow: tuple[Ports, ChildProcess, ChildProcess], request_bytes: bytes) -> None:
    ports, _, server = slow
    count = 200

    async def fill_and_refuse() -> tuple[list[Reply], float]:
        waiting = [asyncio.create_task(ask(ports.gateway, request_bytes)) for _ in range(250)]
        while in_flight(ports) < 250:
            await asyncio.sleep(0.1)
        process = psutil.Process(server.process.pid)
        before = process.cpu_times()
        replies = [await ask(ports.gateway, request_bytes) for _ in range(count)]
        after = process.cpu_times()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0.1)  # for the sockets to be closed
        return replies, (after.user + after.system - before.user - before.system) / count

    replies, cpu_s = asyncio.run(fill_and_refuse())
    print(f"{cpu_s * 1e3:.2f} ms of CPU for a refusal")
    assert {(reply.status, reply.headers["retry-after"]) for reply in replies} == {(503, "1")}
    assert cpu_s < 0.005
    wait_until(lambda: in_flight(ports) == 0, 10, "nothing in flight")


def test_clients_that_leave_leave_nothing(slow: tuple[Ports, ChildProcess, ChildProcess], request_bytes: bytes) -> None:
    """200 of them, and some in the middle of their upload: places are free at once, Triton's calls are cancelled."""
    ports, triton, server = slow
    cancelled_before = triton.lines.count("cancelled")
    gone = 'gateway_requests_total{route="/segment",status="499"}'
    gone_before = metric(ports, gone)

    async def storm() -> None:
        whole, half = [request_bytes] * 200, [request_bytes[: len(request_bytes) // 2]] * 20
        await asyncio.gather(*(ask_and_leave(ports.gateway, sent, after_s=1.5) for sent in whole + half))

    asyncio.run(storm())
    left_at = time.monotonic()
    wait_until(lambda: in_flight(ports) == 0, 10, "nothing in flight")
    print(f"in flight 0 after {time.monotonic() - left_at:.2f} s")
    wait_until(lambda: triton.lines.count("cancelled") - cancelled_before == 200, 5, "all calls cancelled")
    wait_until(lambda: metric(ports, gone) - gone_before == 220, 5, "all counted")
    assert not [line for line in server.lines if '"level": "error"' in line]


def test_the_deadline_is_kept(request_bytes: bytes) -> None:
    """Whoever is slow: Triton, or a client that does not send what it announced."""
    with running(60.0, 10, REQUEST_TIMEOUT_S="1") as (ports, triton, _):
        reply = asyncio.run(ask(ports.gateway, request_bytes))
        assert (reply.status, b'"code":"deadline"' in reply.body) == (504, True)
        assert 1.0 <= reply.latency_s < 4.0
        triton.wait_for_line("cancelled", 5)
        with socket.create_connection(("127.0.0.1", ports.gateway), timeout=5) as connection:
            connection.sendall(request_bytes[:-100])
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        assert in_flight(ports) == 0


def test_a_refusal_does_not_wait_for_the_body(tmp_path: Path, request_bytes: bytes) -> None:
    """Nor does it cost the client its connection."""
    (tmp_path / "keys").write_text("a-key\n")
    head, _, body = request_bytes.partition(b"\r\n\r\n")
    content_type = next(line[14:] for line in head.decode().split("\r\n") if line.startswith("Content-Type: "))
    with contextlib.ExitStack() as stack:
        ports, _, _ = stack.enter_context(running(0.01, 10, API_KEYS_FILE=str(tmp_path / "keys")))
        connection = http.client.HTTPConnection("127.0.0.1", ports.gateway, timeout=5)
        stack.callback(connection.close)
        connection.putrequest("POST", "/segment")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        refused = connection.getresponse()
        assert (refused.status, len(refused.read()) > 0) == (401, True)
        connection.send(body)
        headers = {"Content-Type": content_type, "Authorization": "Bearer a-key"}
        connection.request("POST", "/segment", body, headers)
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"REQUEST_TIMEOUT_S": "soon"}, "error: REQUEST_TIMEOUT_S: "),
        ({"DOCS": "maybe"}, "error: DOCS: "),
        ({"URL_FETCH_ALLOWED_NETWORKS": "10.0.0.0/8, x"}, "error: URL_FETCH_ALLOWED_NETWORKS: "),
        ({"API_KEYS_FILE": "/nowhere"}, "error: API_KEYS_FILE: "),
    ],
)
def test_settings_that_cannot_work(setting: dict[str, str], said: str) -> None:
    with gateway(Ports.free(), **setting) as server:
        assert server.wait(20) == 2
        assert server.output.startswith(said)


def test_sigterm_lets_accepted_requests_end(request_bytes: bytes) -> None:
    with running(1.0, 10) as (ports, _, server):

        async def drain() -> list[Reply]:
            accepted = [asyncio.create_task(ask(ports.gateway, request_bytes)) for _ in range(5)]
            await asyncio.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            with pytest.raises(ConnectionRefusedError):
                await ask(ports.gateway, request_bytes)
            return list(await asyncio.gather(*accepted))

        assert [reply.status for reply in asyncio.run(drain())] == [200] * 5
        server.wait(5)
