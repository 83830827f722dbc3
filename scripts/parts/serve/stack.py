"""Starts and stops Triton (under its supervisor) and the gateway together."""

import contextlib
import os
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

from parts.serve.output import write_text
from parts.serve.ports import Port, check_distinct, check_ports, read_port
from parts.serve.processes import when_parent_dies
from parts.serve.server import ServerOptions

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent.parent
RUN_DIR: Final = REPOSITORY / ".run"
DEMO_MODEL_ID: Final = "paligemma2-demo-224"
HOST: Final = "127.0.0.1"
STOP_TIMEOUT_S: Final = 90.0
POLL_S: Final = 0.1

READY_LINE: Final = "serve: ready after"
STOPPED_LINE: Final = "serve: stopped"

OnReady = Callable[[str, float, str], None]


class StackFailed(Exception):
    """The stack cannot be started, or a part of it has ended; the message says why."""


class Process:
    """A child process with its log; leaving the context ends it cleanly.

    Attributes:
        log: path of its log file.
        said_ready: set when a supervisor has printed its ready line; a gateway has a probe instead.
    """

    def __init__(
        self, name: str, command: list[str], environ: Mapping[str, str], at_once: threading.Event | None = None
    ) -> None:
        """`at_once`: once it is set, the child is killed without waiting for a clean end."""
        self._name = name
        self._command = command
        self._environ = environ
        self._at_once = at_once or threading.Event()
        self.log = RUN_DIR / f"{name}.log"
        self.said_ready = threading.Event()

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            self._command,
            cwd=REPOSITORY,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops its children cleanly
            preexec_fn=when_parent_dies(signal.SIGTERM),  # noqa: PLW1509  # one system call, looked up before the fork
        )
        assert self._child.stdout is not None
        self._pump = threading.Thread(target=self._pump_log, args=(self._child.stdout,), daemon=True)
        self._pump.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._child.terminate()
        give_up_at = time.monotonic() + STOP_TIMEOUT_S
        while not self.has_ended and time.monotonic() < give_up_at and not self._at_once.is_set():
            time.sleep(POLL_S)
        self._child.kill()  # a killed supervisor's guard ends its children
        self._child.wait()
        self._pump.join(1.0)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        """Whether the child has ended."""
        return self._child.poll() is not None

    def check(self) -> None:
        """Raises StackFailed if the child has ended."""
        if (status := self._child.poll()) is not None:
            self._pump.join(1.0)
            raise StackFailed(f"{self._name} ended with status {status}; its log is {self.log.relative_to(REPOSITORY)}")

    def _pump_log(self, stream: IO[bytes]) -> None:
        """Copies all lines to the log, and the supervisor's lines about failures to the terminal, too.

        It keeps reading when the disk is full, because a child whose output is not read would block.
        """
        relevant = False
        with stream, self._open_log() as log:
            for raw in stream:
                with contextlib.suppress(OSError):
                    log.write(raw)
                line = raw.decode(errors="replace")
                relevant = line.startswith("serve: ") or (relevant and line.startswith("  "))
                if line.startswith(READY_LINE):
                    self.said_ready.set()
                elif relevant and not line.startswith(STOPPED_LINE):
                    write_text(sys.stderr, line)

    def _open_log(self) -> IO[bytes]:
        """Opens the log without a buffer, so that bytes that cannot be written are not retried."""
        try:
            return self.log.open("wb", buffering=0)
        except OSError:
            return Path(os.devnull).open("wb", buffering=0)


@dataclass(frozen=True, slots=True)
class Stack:
    """A running Triton and gateway.

    Attributes:
        triton: the supervisor's process; the server and its stubs are its descendants.
        gateway: the gateway's process.
        triton_ports: HTTP, gRPC and metrics.
        url: the gateway's URL.
    """

    triton: Process
    gateway: Process
    triton_ports: list[Port]
    url: str

    def check(self) -> None:
        """Raises StackFailed if one of them has ended."""
        self.triton.check()
        self.gateway.check()


@contextlib.contextmanager
def running_stack(
    environ: dict[str, str], on_ready: OnReady, at_once: threading.Event | None = None
) -> Iterator[Stack]:
    """Starts both, with the demo model unless `environ` names another; stops them when the context ends.

    Args:
        environ: variables for both processes; missing ones get defaults.
        on_ready: called with the part's name, the seconds until it was ready, and its address.
        at_once: once it is set, both are stopped without waiting for running requests.

    Raises:
        StackFailed: one of them does not start.
        PortError: a port is in use, or given twice.
    """
    environ.setdefault("MODEL_ID", DEMO_MODEL_ID)
    environ.setdefault("MODELS_DIR", str(REPOSITORY / "models"))
    host = environ.setdefault("GATEWAY_HOST", HOST)
    gateway_port, triton_ports = read_port(environ, "GATEWAY_PORT", 8000), ServerOptions.read_ports(environ)
    check_distinct([*triton_ports, gateway_port])
    check_ports(HOST, triton_ports)
    check_ports(host, [gateway_port])
    environ["TRITON_GRPC_URL"] = f"{HOST}:{triton_ports[1].number}"
    environ["TRITON_METRICS_URL"] = f"http://{HOST}:{triton_ports[2].number}/metrics"
    url = f"http://{HOST if host == '0.0.0.0' else host}:{gateway_port.number}"  # noqa: S104
    RUN_DIR.mkdir(exist_ok=True)
    serve_command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), "--restart"]
    with (
        Process("triton", serve_command, environ, at_once) as triton,
        Process("gateway", [sys.executable, "-m", "gateway"], environ, at_once) as gateway,
    ):
        stack = Stack(triton, gateway, triton_ports, url)
        seconds = _wait(triton.said_ready.is_set, stack.check)
        names = zip(("http", "grpc", "metrics"), triton_ports, strict=True)
        on_ready("triton", seconds, f"{HOST}: {', '.join(f'{name} {port.number}' for name, port in names)}")
        on_ready("gateway", _wait(lambda: _answers(f"{url}/readyz"), stack.check), url)
        yield stack


def _wait(condition: Callable[[], bool], check: Callable[[], None]) -> float:
    """Waits for a condition; returns the seconds that it took."""
    started = time.monotonic()
    while not condition():
        check()
        time.sleep(POLL_S)
    return time.monotonic() - started


def _answers(url: str) -> bool:
    """Whether a probe answers 200."""
    try:
        return bool(httpx2.get(url, trust_env=False, timeout=5.0).status_code == httpx2.codes.OK)
    except httpx2.HTTPError:
        return False
