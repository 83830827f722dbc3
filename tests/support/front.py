"""A real gateway before a stand-in for Triton."""

import contextlib
import re
import urllib.request
from collections.abc import Iterator

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


def metric(ports: Ports, name: str) -> float:
    """0 where it has not been counted yet."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ports.gateway}/metrics", timeout=5) as response:
        found = re.search(rf"^{re.escape(name)} (.*)$", response.read().decode(), re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def in_flight(ports: Ports) -> float:
    return metric(ports, "gateway_requests_in_flight")


def bytes_in_flight(ports: Ports) -> float:
    return metric(ports, "gateway_body_bytes_in_flight")
