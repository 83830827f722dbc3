"""One run of tritonserver: started, watched, drained, ended with everything that belongs to it."""

import collections
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Final, Self

import psutil

from supervision import heartbeats
from supervision.cures import shared_memory_problem
from supervision.ports import Port, read_port
from supervision.processes import SHARED_MEMORY, GroupGuard, is_alive, is_stub, served_model

POLL_S: Final = 0.5
HEALTH_TIMEOUT_S: Final = 5.0
HEALTH_FAILURES: Final = 6  # in a row, before a server that still runs is called stuck
EXIT_TIMEOUT_S: Final = 30  # for tritonserver to finish what it has in hand
END_GRACE_S: Final = 5.0  # for a server that has already failed
LOG_LINES_KEPT: Final = 400
LOG_LINES_SHOWN: Final = 12

# Closed to everybody: what they are called with is made up at each start and told to nobody.
ADMINISTRATIVE: Final = "model-repository,shared-memory,trace,logging"

FAILED_LOAD: Final = "failed to load '"
NO_GPU: Final = re.compile("CudaDriverHelper|CUDA driver")  # a host without one is told so at every start
ERROR_LINE: Final = re.compile(r"E[0-9]{4} |error: |Traceback")

# PyTorch's threads wait for each other by spinning, libgomp's default for milliseconds at each operation: with anything
# else on the same cores a request then takes seconds. So few rounds (some microseconds) cost an idle host nothing.
SPIN_BRIEFLY: Final = {"GOMP_SPINCOUNT": "2000"}


class ServerFailed(Exception):
    """The server did not start, or died, or hangs.

    Attributes:
        log_extract: lines of the server's log that say more.
    """

    def __init__(self, message: str, log_extract: list[str] | None = None) -> None:
        super().__init__(message)
        self.log_extract = log_extract or []


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to run the server.

    Attributes:
        model_repository: folder with the models.
        models_dir: folder with weights; handed to the models as MODELS_DIR.
        host: address to listen on.
        ports: HTTP, gRPC and metrics, in this order.
        drain_timeout_s: how long running requests may take to end.
        stall_timeout_s: a heartbeat this old means a stuck engine.
        extra_options: for tritonserver, as they are.
    """

    model_repository: Path
    models_dir: Path
    host: str
    ports: list[Port]
    drain_timeout_s: float
    stall_timeout_s: float
    extra_options: tuple[str, ...] = ()

    @staticmethod
    def read_ports(environ: Mapping[str, str]) -> list[Port]:
        """HTTP, gRPC and metrics ports from the environment; raises PortError."""
        return [
            read_port(environ, "TRITON_HTTP_PORT", 8010),
            read_port(environ, "TRITON_GRPC_PORT", 8011),
            read_port(environ, "TRITON_METRICS_PORT", 8012),
        ]


class Server:
    """A tritonserver process and what belongs to it; leaving the context ends all of it."""

    def __init__(self, options: ServerOptions, heartbeat_dir: Path) -> None:
        self._options = options
        self._heartbeat_dir = heartbeat_dir
        self._shared_memory_prefix = f"triton_{uuid.uuid4().hex[:12]}_"
        self._log: collections.deque[str] = collections.deque(maxlen=LOG_LINES_KEPT)
        self._stubs: list[psutil.Process] = []
        self._commands: dict[int, list[str]] = {}
        self._health_failures = 0

    def __enter__(self) -> Self:
        """Starts the process; raises ServerFailed where there is no tritonserver, or no shared memory for it."""
        if shutil.which("tritonserver") is None:
            raise ServerFailed("there is no tritonserver on PATH; scripts/demo.sh sets one up")
        if problem := shared_memory_problem(SHARED_MEMORY):
            raise ServerFailed(problem)
        environment = {
            **SPIN_BRIEFLY,
            **os.environ,
            "MODELS_DIR": str(self._options.models_dir),
            "HEARTBEAT_DIR": str(self._heartbeat_dir),
        }
        self._process = subprocess.Popen(
            self._command(),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is for the supervisor, which ends the server in order
        )
        self._guard = GroupGuard(self._process.pid, SHARED_MEMORY / self._shared_memory_prefix)
        assert self._process.stdout is not None
        self._pump = threading.Thread(target=self._pump_log, args=(self._process.stdout,), daemon=True)
        self._pump.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end(END_GRACE_S)

    def wait_ready(self, stop: threading.Event) -> None:
        """Returns when every model is ready, or a stop is asked for; raises ServerFailed where one cannot be."""
        while not stop.wait(POLL_S):
            if self._process.poll() is not None:
                message = f"tritonserver did not start (status {self._process.returncode})"
                raise ServerFailed(message, self._log_extract())
            self._stubs = self._find_stubs()
            if self._is_healthy("ready"):
                return

    def watch(self, stop: threading.Event) -> None:
        """Returns when a stop is asked for; raises ServerFailed when something is dead or stuck."""
        while not stop.wait(POLL_S):
            self._check()

    def drain(self, at_once: threading.Event) -> None:
        """Lets running requests end, then the server."""
        give_up_at = time.monotonic() + self._options.drain_timeout_s
        while time.monotonic() < give_up_at and not at_once.is_set() and self._process.poll() is None:
            if heartbeats.unanswered(self._heartbeat_dir) == 0:
                break
            time.sleep(0.1)
        self._end(END_GRACE_S if at_once.is_set() else EXIT_TIMEOUT_S + END_GRACE_S)

    def _command(self) -> list[str]:
        options = self._options
        http, grpc, metrics = (port.number for port in options.ports)
        closed = f"{ADMINISTRATIVE}:key={secrets.token_urlsafe()}"
        return [
            "tritonserver",
            f"--model-repository={options.model_repository}",
            f"--http-address={options.host}",
            f"--http-port={http}",
            f"--grpc-address={options.host}",
            f"--grpc-port={grpc}",
            f"--metrics-address={options.host}",
            f"--metrics-port={metrics}",
            f"--http-restricted-api={closed}",
            f"--grpc-restricted-protocol={closed}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            "--grpc-http2-max-ping-strikes=0",  # a client with a long request may ping as often as it likes
            "--disable-auto-complete-config",  # the configurations are complete; completing them would cost a start
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            *options.extra_options,
        ]

    def _check(self) -> None:
        if self._process.poll() is not None:
            raise ServerFailed(f"tritonserver died (status {self._process.returncode})", self._log_extract())
        for stub in self._stubs:
            if not is_alive(stub):
                model = served_model(self._commands.get(stub.pid, []))
                raise ServerFailed(f"the process of model {model} died (pid {stub.pid})")
        for name, age_s in heartbeats.ages_s(self._heartbeat_dir).items():
            if age_s > self._options.stall_timeout_s:
                raise ServerFailed(f"engine {name} is stuck: no sign of life for {age_s:.0f} s")
        self._health_failures = 0 if self._is_healthy("live") else self._health_failures + 1
        if self._health_failures >= HEALTH_FAILURES:
            raise ServerFailed(f"tritonserver is stuck: {HEALTH_FAILURES} health checks in a row failed")

    def _is_healthy(self, probe: str) -> bool:
        host = "127.0.0.1" if self._options.host == "0.0.0.0" else self._options.host  # noqa: S104
        url = f"http://{host}:{self._options.ports[0].number}/v2/health/{probe}"
        try:
            with urllib.request.urlopen(url, timeout=HEALTH_TIMEOUT_S) as response:
                return bool(response.status == HTTPStatus.OK)
        except (OSError, urllib.error.HTTPError):
            return False

    def _find_stubs(self) -> list[psutil.Process]:
        """The stubs there are; one that has died meanwhile is a zombie, and no longer says what it was."""
        stubs = []
        with contextlib.suppress(psutil.NoSuchProcess):
            stubs = [child for child in psutil.Process(self._process.pid).children(recursive=True) if is_stub(child)]
        for stub in stubs:
            with contextlib.suppress(psutil.Error):
                self._commands.setdefault(stub.pid, stub.cmdline())
        return stubs

    def _end(self, grace_s: float) -> None:
        """Ends the server and its stubs, and clears away the shared memory that a killed one leaves."""
        if self._process.poll() is None:
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        else:
            family = []
        for process in {*family, *self._stubs}:
            if is_alive(process):
                process.kill()
        psutil.wait_procs({*family, *self._stubs}, timeout=END_GRACE_S)
        self._guard.dismiss()
        self._pump.join(END_GRACE_S)
        for region in SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
            region.unlink(missing_ok=True)

    def _pump_log(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode(errors="replace")
            self._log.append(text.rstrip())
            sys.stdout.write(text)
            sys.stdout.flush()

    def _log_extract(self) -> list[str]:
        """The log's lines that say what went wrong."""
        self._pump.join(END_GRACE_S)
        failed_loads = [line for line in self._log if FAILED_LOAD in line and "Internal: " in line]
        telling = failed_loads or [line for line in self._log if ERROR_LINE.match(line) and not NO_GPU.search(line)]
        # What follows an exception's text, written as one line, is where it was raised.
        causes = [line.partition(r"\n\nAt:")[0].partition('] "')[2] or line for line in telling]
        return causes[-LOG_LINES_SHOWN:]
