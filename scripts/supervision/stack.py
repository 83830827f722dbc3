"""Triton under its supervisor and the gateway, started and stopped together."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

import httpx2

from supervision.ports import Port, check_ports, read_port
from supervision.processes import when_parent_dies
from supervision.server import ServerOptions

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
RUN_DIR: Final = REPOSITORY / ".run"
DEMO_MODEL_ID: Final = "paligemma2-demo-224"
HOST: Final = "127.0.0.1"
STOP_TIMEOUT_S: Final = 90.0
POLL_S: Final = 0.1

OnReady = Callable[[str, float, str], None]


class StackFailed(Exception):
    """The stack cannot be started, or part of it ended; the message says why."""


class Process:
    """A child with its log; leaving the context ends it in order."""

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str]) -> None:
        self._name = name
        self._command = command
        self._environ = environ
        self.log = RUN_DIR / f"{name}.log"

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            self._command,
            cwd=REPOSITORY,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches this process only, which then stops things in order
            preexec_fn=when_parent_dies(signal.SIGTERM),  # noqa: PLW1509  # one system call, looked up before the fork
        )
        assert self._child.stdout is not None
        self._pump = threading.Thread(target=self._pump_log, args=(self._child.stdout,), daemon=True)
        self._pump.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._pump.join(1.0)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def check(self) -> None:
        """Raises StackFailed where the child has ended."""
        if (status := self._child.poll()) is not None:
            self._pump.join(1.0)
            raise StackFailed(f"{self._name} ended with status {status}; its log is {self.log.relative_to(REPOSITORY)}")

    def _pump_log(self, stream: IO[bytes]) -> None:
        """Everything into the log; what the supervisor says of failures also to the terminal."""
        with self.log.open("wb", buffering=0) as log:
            relevant = False
            for line in stream:
                log.write(line)
                relevant = line.startswith(b"serve: ") or (relevant and line.startswith(b"  "))
                if relevant and not line.startswith((b"serve: ready after", b"serve: stopped")):
                    sys.stderr.write(line.decode(errors="replace"))
                    sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class Stack:
    """A running Triton and gateway.

    Attributes:
        triton: the supervisor's process; the server and its stubs are below it.
        gateway: the gateway's process.
        triton_ports: HTTP, gRPC and metrics.
        url: of the gateway.
    """

    triton: Process
    gateway: Process
    triton_ports: list[Port]
    url: str

    def check(self) -> None:
        """Raises StackFailed where one of them has ended."""
        self.triton.check()
        self.gateway.check()


@contextlib.contextmanager
def running_stack(environ: dict[str, str], on_ready: OnReady) -> Iterator[Stack]:
    """Starts both, with the demo model unless the environment says otherwise; stops them when the context ends.

    Args:
        environ: for both processes; what it lacks is filled in.
        on_ready: called with a name, the seconds that it took, and where it listens.

    Raises:
        StackFailed: one of them does not start.
        PortError: a port is taken.
    """
    environ.setdefault("MODEL_ID", DEMO_MODEL_ID)
    environ.setdefault("MODELS_DIR", str(REPOSITORY / "models"))
    host = environ.setdefault("GATEWAY_HOST", HOST)
    gateway_port, triton_ports = read_port(environ, "GATEWAY_PORT", 8000), ServerOptions.read_ports(environ)
    check_ports(HOST, triton_ports)
    check_ports(host, [gateway_port])
    environ["TRITON_GRPC_URL"] = f"{HOST}:{triton_ports[1].number}"
    environ["TRITON_METRICS_URL"] = f"http://{HOST}:{triton_ports[2].number}/metrics"
    url = f"http://{HOST if host == '0.0.0.0' else host}:{gateway_port.number}"  # noqa: S104
    RUN_DIR.mkdir(exist_ok=True)
    serve_command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), "--restart"]
    with (
        Process("triton", serve_command, environ) as triton,
        Process("gateway", [sys.executable, "-m", "gateway"], environ) as gateway,
    ):
        stack = Stack(triton, gateway, triton_ports, url)
        seconds = _wait(f"http://{HOST}:{triton_ports[0].number}/v2/health/ready", stack.check)
        names = zip(("http", "grpc", "metrics"), triton_ports, strict=True)
        on_ready("triton", seconds, f"{HOST}: {', '.join(f'{name} {port.number}' for name, port in names)}")
        on_ready("gateway", _wait(f"{url}/readyz", stack.check), url)
        yield stack


def _wait(url: str, check: Callable[[], None]) -> float:
    """Waits for a probe to answer 200; returns how long that took."""
    started = time.monotonic()
    with httpx2.Client(trust_env=False, timeout=5.0) as client:
        while True:
            check()
            with contextlib.suppress(httpx2.HTTPError):
                if client.get(url).status_code == httpx2.codes.OK:
                    return time.monotonic() - started
            time.sleep(POLL_S)
