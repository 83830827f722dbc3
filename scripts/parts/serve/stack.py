"""Starts and stops Triton's replicas, each under its own supervisor, and the gateway over them."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx2

from parts.serve.child import POLL_S, REPOSITORY, RUN_DIR, Process, StackFailed
from parts.serve.ports import Port, check_distinct, check_ports, read_port
from parts.serve.server import ServerOptions

DEMO_MODEL_ID: Final = "paligemma2-demo-224"

__all__ = [
    "HOST",
    "REPOSITORY",
    "RUN_DIR",
    "Process",
    "Replica",
    "Stack",
    "StackFailed",
    "answers",
    "replica_ports",
    "running_stack",
    "wait_for",
]

HOST: Final = "127.0.0.1"


PORT_STRIDE: Final = 10  # from each port of a replica to that of the next one
MAX_REPLICAS: Final = 16

OnReady = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class Replica:
    """A running Triton.

    Attributes:
        process: the supervisor's process; the server and its stubs are its descendants.
        ports: HTTP, gRPC and metrics.
    """

    process: Process
    ports: list[Port]


@dataclass(frozen=True, slots=True)
class Stack:
    """Running Tritons and a gateway.

    Attributes:
        replicas: the Tritons, at least one.
        gateway: the gateway's process.
        url: the gateway's URL.
    """

    replicas: list[Replica]
    gateway: Process
    url: str

    @property
    def triton(self) -> Process:
        """The supervisor's process of the first replica."""
        return self.replicas[0].process

    @property
    def triton_ports(self) -> list[Port]:
        """HTTP, gRPC and metrics of the first replica."""
        return self.replicas[0].ports

    def check(self) -> None:
        """Raises StackFailed if one of them has ended."""
        for replica in self.replicas:
            replica.process.check()
        self.gateway.check()

    def check_serving(self) -> None:
        """Raises StackFailed if the gateway has ended, or the last Triton."""
        self.gateway.check()
        if all(replica.process.has_ended for replica in self.replicas):
            self.check()

    def ask_tritons_to_end(self) -> None:
        """So that they stop side by side, and not one after another."""
        for replica in self.replicas:
            replica.process.ask_to_end()


@contextlib.contextmanager
def running_stack(
    environ: dict[str, str], on_ready: OnReady, at_once: threading.Event | None = None
) -> Iterator[Stack]:
    """Starts all of it, with the demo model unless `environ` names another; stops it when the context ends.

    Args:
        environ: variables for all processes; missing ones get defaults. REPLICAS says how many Tritons there are.
        on_ready: called with the part's name, the seconds until it was ready, and its address.
        at_once: once it is set, everything is stopped without waiting for running requests.

    Raises:
        StackFailed: a part does not start, or REPLICAS is no such number.
        PortError: a port is in use, or given twice.
    """
    environ.setdefault("MODEL_ID", DEMO_MODEL_ID)
    environ.setdefault("MODELS_DIR", str(REPOSITORY / "models"))
    host = environ.setdefault("GATEWAY_HOST", HOST)
    gateway_port, ports_of = read_port(environ, "GATEWAY_PORT", 8000), replica_ports(environ)
    triton_ports = [port for ports in ports_of for port in ports]
    check_distinct([*triton_ports, gateway_port])
    check_ports(HOST, triton_ports)
    check_ports(host, [gateway_port])
    environ["TRITON_GRPC_URL"] = ",".join(f"{HOST}:{grpc.number}" for _, grpc, _ in ports_of)
    environ["TRITON_METRICS_URL"] = ",".join(f"http://{HOST}:{metrics.number}/metrics" for *_, metrics in ports_of)
    url = f"http://{HOST if host == '0.0.0.0' else host}:{gateway_port.number}"  # noqa: S104
    RUN_DIR.mkdir(exist_ok=True)
    with contextlib.ExitStack() as running:
        replicas = [
            Replica(running.enter_context(_supervisor(environ, ports_of, number, at_once)), ports)
            for number, ports in enumerate(ports_of)
        ]
        gateway = Process("gateway", [sys.executable, "-m", "gateway"], environ, at_once)
        stack = Stack(replicas, gateway, url)
        running.callback(stack.ask_tritons_to_end)
        running.enter_context(gateway)
        started = time.monotonic()
        for replica in replicas:
            wait_for(replica.process.said_ready.is_set, stack.check)
            names = zip(("http", "grpc", "metrics"), replica.ports, strict=True)
            where = f"{HOST}: {', '.join(f'{name} {port.number}' for name, port in names)}"
            on_ready(replica.process.name, time.monotonic() - started, where)
        on_ready("gateway", wait_for(lambda: answers(f"{url}/readyz"), stack.check), url)
        yield stack


def replica_ports(environ: Mapping[str, str]) -> list[list[Port]]:
    """HTTP, gRPC and metrics ports of each of REPLICAS Tritons, counted up from those of the first one.

    Raises:
        StackFailed: REPLICAS is no number from 1 to MAX_REPLICAS.
        PortError: a port is none.
    """
    text = environ.get("REPLICAS", "").strip() or "1"
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_REPLICAS):
        raise StackFailed(f"REPLICAS must be a whole number from 1 to {MAX_REPLICAS}, not {text!r}")
    first = ServerOptions.read_ports(environ)
    return [
        [read_port({port.variable: str(port.number + number * PORT_STRIDE)}, port.variable, 0) for port in first]
        for number in range(int(text))
    ]


def _supervisor(
    environ: Mapping[str, str], ports_of: list[list[Port]], number: int, at_once: threading.Event | None
) -> Process:
    several = len(ports_of) > 1
    own = {port.variable: str(port.number) for port in ports_of[number]}
    command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), "--restart"]
    name = f"triton-{number + 1}" if several else "triton"
    return Process(name, command, {**environ, **own}, at_once, is_one_of_several=several)


def wait_for(condition: Callable[[], bool], check: Callable[[], None]) -> float:
    """Waits for a condition; returns the seconds that it took. `check` raises where waiting is of no use."""
    started = time.monotonic()
    while not condition():
        check()
        time.sleep(POLL_S)
    return time.monotonic() - started


def answers(url: str) -> bool:
    """Whether a probe answers 200."""
    try:
        return bool(httpx2.get(url, trust_env=False, timeout=5.0).status_code == httpx2.codes.OK)
    except httpx2.HTTPError:
        return False
