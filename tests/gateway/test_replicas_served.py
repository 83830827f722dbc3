"""A real gateway over several stand-ins for Triton, which die, hang and come back while it is asked."""

import asyncio
import contextlib
import signal
import time
from typing import Any

import httpx2
from front import Replica, in_flight, replica, replica_metric, running_replicas
from pressure import ask_while, under_load
from raw_http import ask, ask_and_leave, segment_request
from stack import Ports, gateway, wait_until

CLIENTS = 16
DELAY_S = 0.05
DEADLINE_S = 20.0


def answered_again() -> None:
    """Time for some hundred requests."""
    time.sleep(8 * DELAY_S)


def picked(ports: Ports, replicas: list[Replica]) -> list[float]:
    return [replica_metric(ports, "picked_total", each) for each in replicas]


def serves(ports: Ports, one: Replica) -> bool:
    return replica_metric(ports, "in_rotation", one) == 1


def test_the_load_is_spread() -> None:
    with running_replicas(3, DELAY_S, 4) as (ports, replicas, _):
        until = time.monotonic() + 3.0
        replies = asyncio.run(ask_while(ports.gateway, lambda: time.monotonic() < until, clients=12))
        counts = picked(ports, replicas)
        assert {reply.status for reply in replies} == {200}
        assert sum(counts) == len(replies) > 30
        assert max(counts) - min(counts) <= 0.2 * sum(counts) / 3, counts
        assert [replica_metric(ports, "outstanding", each) for each in replicas] == [0, 0, 0]


def test_a_killed_replica_costs_no_answer_and_comes_back() -> None:
    """kill -9 while 16 clients ask: everybody is answered; when it is there again it is asked again."""
    with running_replicas(2, DELAY_S, 4) as (ports, (lost, other), _), contextlib.ExitStack() as stack:

        def kill() -> None:
            lost.process.process.kill()
            wait_until(lambda: not serves(ports, lost), 10, "left out")

        assert {reply.status for reply in under_load(ports.gateway, kill, clients=CLIENTS)} == {200}
        assert replica_metric(ports, "ejected_total", lost) == 1
        before = picked(ports, [lost, other])
        assert {reply.status for reply in under_load(ports.gateway, answered_again, clients=CLIENTS)} == {200}
        assert picked(ports, [lost, other])[0] == before[0]
        stack.enter_context(replica(DELAY_S, 4, lost.ports))
        wait_until(lambda: serves(ports, lost), 10, "serves again")
        assert {reply.status for reply in under_load(ports.gateway, answered_again, clients=CLIENTS)} == {200}
        assert picked(ports, [lost, other])[0] > before[0]


def test_a_replica_that_hangs_is_left_out_and_its_requests_are_answered_in_time() -> None:
    """SIGSTOP: its port accepts, and nothing is answered. TRITON_KEEPALIVE_S alone would take 20 s to notice."""
    with running_replicas(2, DELAY_S, 4, REQUEST_TIMEOUT_S=str(DEADLINE_S)) as (ports, (hung, other), _):

        def hang() -> None:
            hung.process.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: not serves(ports, hung), 15, "left out")

        try:
            replies = under_load(ports.gateway, hang, clients=CLIENTS)
        finally:
            hung.process.process.send_signal(signal.SIGCONT)
        assert {reply.status for reply in replies} == {200}
        assert max(reply.latency_s for reply in replies) < DEADLINE_S
        assert serves(ports, other)
        wait_until(lambda: serves(ports, hung), 15, "serves again")


def test_a_client_that_leaves_ends_its_call() -> None:
    with running_replicas(2, 60.0, 4) as (ports, replicas, _):
        asyncio.run(ask_and_leave(ports.gateway, segment_request(b"picture"), after_s=0.5))
        wait_until(lambda: any("cancelled" in each.process.lines for each in replicas), 10, "the call has ended")
        wait_until(lambda: in_flight(ports) == 0, 10, "nothing in flight")
        assert [replica_metric(ports, "outstanding", each) for each in replicas] == [0, 0]


def test_readiness_is_that_of_any_replica() -> None:
    with running_replicas(2, 0.0, 4) as (ports, replicas, _):

        def readiness() -> Any:
            return httpx2.get(f"http://127.0.0.1:{ports.gateway}/readyz", trust_env=False).status_code

        replicas[0].process.stop(signal.SIGKILL)
        wait_until(lambda: not serves(ports, replicas[0]), 10, "left out")
        assert readiness() == 200
        replicas[1].process.stop(signal.SIGKILL)
        wait_until(lambda: readiness() == 503, 10, "not ready")
        assert asyncio.run(ask(ports.gateway, segment_request(b"picture"))).status == 503


def test_a_name_is_asked_for_its_addresses() -> None:
    with replica(0.0, 4) as one, gateway(Ports.free(), TRITON_GRPC_URL="dns:///localhost:1") as nobody:
        ports = Ports.free()
        with gateway(ports, TRITON_GRPC_URL=f"dns:///localhost:{one.ports.grpc}"):
            wait_until(lambda: answers(ports), 20, "answers")
            assert replica_metric(ports, "picked_total", one) > 0
        assert nobody.process.poll() is None


def answers(ports: Ports) -> bool:
    try:
        return asyncio.run(ask(ports.gateway, segment_request(b"picture"))).status == 200
    except OSError:
        return False


def test_addresses_that_cannot_be_read_are_said_at_start() -> None:
    with gateway(Ports.free(), TRITON_GRPC_URL="dns:///triton") as server:
        assert server.wait(20) == 2
        assert server.output.startswith("error: TRITON_GRPC_URL: ")
