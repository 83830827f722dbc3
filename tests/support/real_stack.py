"""One real stack for all tests, of whichever folder, that do not break it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from stack import START_TIMEOUT_S, Ports, answers_200, gateway, infer, serve, wait_until


@dataclass(frozen=True)
class Stack:
    """A running Triton and gateway."""

    ports: Ports
    grpc: Any
    http: Any
    supervisor_pid: int
    gateway_pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    def ask(self, protocol: str, image: bytes, prompt: str, **options: Any) -> dict[str, np.ndarray]:
        client, module = {"grpc": (self.grpc, tritonclient.grpc), "http": (self.http, tritonclient.http)}[protocol]
        return infer(client, module, image, prompt, **options)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    ports = Ports.free()
    with serve(ports) as server, gateway(ports) as front:
        server.wait_for_line("^serve: ready", START_TIMEOUT_S)
        wait_until(lambda: answers_200(f"http://127.0.0.1:{ports.gateway}/readyz"), 20, "gateway ready")
        grpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports.grpc}")
        http = tritonclient.http.InferenceServerClient(f"127.0.0.1:{ports.http}", concurrency=8)
        yield Stack(ports, grpc, http, server.process.pid, front.process.pid)
        grpc.close()
        http.close()
