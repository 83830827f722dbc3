"""A real gateway before a stand-in for Triton, or before several."""

import contextlib
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from stack import ChildProcess, Ports, answers_200, fixed_delay_triton, gateway, wait_until


@contextlib.contextmanager
def running(delay_s: float, parallel: int, **settings: str) -> Iterator[tuple[Ports, ChildProcess, ChildProcess]]:
    """Ports, Triton and gateway; ended with the context."""
    ports = Ports.free()
    triton = fixed_delay_triton(ports, delay_s=delay_s, parallel=parallel)
    with triton, gateway(ports, **settings) as server:
        triton.wait_for_line("^ready$", 20)
        wait_until(lambda: answers_200(f"http://127.0.0.1:{ports.gateway}/readyz"), 20, "gateway ready")
        yield ports, triton, server


@dataclass(frozen=True)
class Replica:
    """A stand-in for Triton, and its address, which is its label in the gateway's metrics."""

    ports: Ports
    process: ChildProcess

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"


@contextlib.contextmanager
def replica(delay_s: float, parallel: int, ports: Ports | None = None) -> Iterator[Replica]:
    """One that is ready; ended with the context."""
    ports = ports or Ports.free()
    with fixed_delay_triton(ports, delay_s=delay_s, parallel=parallel) as process:
        process.wait_for_line("^ready$", 20)
        yield Replica(ports, process)


@contextlib.contextmanager
def running_replicas(
    count: int, delay_s: float, parallel: int, **settings: str
) -> Iterator[tuple[Ports, list[Replica], ChildProcess]]:
    """The gateway's ports, the replicas, the gateway; ended with the context."""
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(replica(delay_s, parallel)) for _ in range(count)]
        ports = Ports.free()
        addresses = ",".join(each.address for each in replicas)
        server = stack.enter_context(gateway(ports, TRITON_GRPC_URL=addresses, **settings))
        wait_until(lambda: answers_200(f"http://127.0.0.1:{ports.gateway}/readyz"), 20, "gateway ready")
        yield ports, replicas, server


def replica_metric(ports: Ports, name: str, replica: Replica) -> float:
    return metric(ports, f'gateway_replica_{name}{{replica="{replica.address}"}}')


def metric(ports: Ports, name: str) -> float:
    """0 where it has not been counted yet."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ports.gateway}/metrics", timeout=5) as response:
        found = re.search(rf"^{re.escape(name)} (.*)$", response.read().decode(), re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def in_flight(ports: Ports) -> float:
    return metric(ports, "gateway_requests_in_flight")


def bytes_in_flight(ports: Ports) -> float:
    return metric(ports, "gateway_body_bytes_in_flight")
