"""One run of tritonserver: starts, watches, drains and ends the server with its stubs and shared memory."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil

from parts.serve import heartbeats
from parts.serve.cures import NO_ANSWER_CURE, shared_memory_problem
from parts.serve.ports import Port, read_port
from parts.serve.probes import MODEL, Address, FirstRequestFailed, ask_first_request
from parts.serve.processes import SHARED_MEMORY, GroupGuard, end, is_alive, served_model, stubs_below
from parts.serve.server_log import ServerLog

POLL_S: Final = 0.5
END_POLL_S: Final = 0.05
HEALTH_FAILURES: Final = 6  # failed health checks in a row after which a running server counts as stuck
EXIT_TIMEOUT_S: Final = 30  # for tritonserver to finish its running requests
END_GRACE_S: Final = 5.0  # beyond that, and for what is left of it, to end
FAILED_GRACE_S: Final = 1.0  # to end, for a server that has failed: it has no answer left to give

# Closed to all clients: they require a key that is random for each start and is given to nobody.
ADMINISTRATIVE: Final = "model-repository,shared-memory,trace,logging"

# PyTorch's threads wait for each other by spinning, by libgomp's default for milliseconds at each operation: with other
# load on the same cores a request then takes seconds. This count (a few microseconds) costs an idle host nothing.
SPIN_BRIEFLY: Final = {"GOMP_SPINCOUNT": "2000"}


class ServerFailed(Exception):
    """The server did not start, died, or is stuck.

    Attributes:
        details: further lines: from the server's log, or advice.
    """

    def __init__(self, message: str, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.details = details or []


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to run the server.

    Attributes:
        model_repository: folder with the models.
        models_dir: folder with weights; passed to the models as MODELS_DIR.
        host: address to listen on.
        ports: HTTP, gRPC and metrics, in this order.
        drain_timeout_s: longest time for running requests to end.
        stall_timeout_s: an engine whose heartbeat is older counts as stuck.
        first_answer_timeout_s: longest time for the first request once all models are ready.
        extra_options: passed to tritonserver unchanged.
    """

    model_repository: Path
    models_dir: Path
    host: str
    ports: list[Port]
    drain_timeout_s: float
    stall_timeout_s: float
    first_answer_timeout_s: float
    extra_options: tuple[str, ...] = ()

    @property
    def address(self) -> Address:
        """The HTTP address at which this host reaches the server."""
        return Address("127.0.0.1" if self.host == "0.0.0.0" else self.host, self.ports[0].number)  # noqa: S104

    @staticmethod
    def read_ports(environ: Mapping[str, str]) -> list[Port]:
        """HTTP, gRPC and metrics ports from the environment; raises PortError."""
        return [
            read_port(environ, "TRITON_HTTP_PORT", 8010),
            read_port(environ, "TRITON_GRPC_PORT", 8011),
            read_port(environ, "TRITON_METRICS_PORT", 8012),
        ]


class Server:
    """A tritonserver process, its stubs and its shared memory; leaving the context ends and removes all of it."""

    def __init__(self, options: ServerOptions, heartbeat_dir: Path) -> None:
        self._options = options
        self._heartbeat_dir = heartbeat_dir
        self._shared_memory_prefix = f"triton_{uuid.uuid4().hex[:12]}_"
        self._stubs: list[psutil.Process] = []
        self._commands: dict[int, list[str]] = {}
        self._health_failures = 0

    def __enter__(self) -> Self:
        """Starts the process; raises ServerFailed if tritonserver is not installed or shared memory is too small."""
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
            start_new_session=True,  # Ctrl-C in the terminal reaches only the supervisor, which ends the server cleanly
        )
        self._guard = GroupGuard(self._process.pid, SHARED_MEMORY / self._shared_memory_prefix)
        assert self._process.stdout is not None
        self._log = ServerLog(self._process.stdout)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end(FAILED_GRACE_S)

    def wait_ready(self, stop: threading.Event) -> None:
        """Returns when every model is ready or a stop is asked for; raises ServerFailed if a model cannot be loaded."""
        while not stop.wait(POLL_S):
            if self._process.poll() is not None:
                message = f"tritonserver did not start (status {self._process.returncode})"
                raise ServerFailed(message, self._failure_lines())
            ready = self._options.address.is_healthy("ready")
            self._stubs = self._find_stubs()
            if ready:
                return

    def wait_first_answer(self, stop: threading.Event) -> None:
        """Returns when a real request has been answered or a stop is asked for; raises ServerFailed if it fails.

        Triton reports ready as soon as all models are loaded, even if a stub dies or hangs at its first request.
        A repository without the ensemble gets no request.
        """
        if not (self._options.model_repository / MODEL).is_dir():
            return
        answered = ask_first_request(self._options.address, self._options.first_answer_timeout_s)
        while not stop.is_set():
            try:
                answered.result(POLL_S)
            except TimeoutError:
                self._check("at the first request", NO_ANSWER_CURE)
            except FirstRequestFailed as failure:
                self._check("at the first request", NO_ANSWER_CURE)  # says more than a lost connection
                raise ServerFailed(str(failure), [NO_ANSWER_CURE]) from failure
            else:
                return

    def watch(self, stop: threading.Event) -> None:
        """Returns when a stop is asked for; raises ServerFailed when a process or engine is dead or stuck."""
        while not stop.wait(POLL_S):
            self._check()

    def drain(self, at_once: threading.Event) -> None:
        """Waits for running requests to end, then ends the server; `at_once` cuts the wait short.

        The engines refuse new requests meanwhile: callers with several servers ask another one, and a server under load
        comes to its end.
        """
        heartbeats.say_stopping(self._heartbeat_dir)
        give_up_at = time.monotonic() + self._options.drain_timeout_s
        while time.monotonic() < give_up_at and self._process.poll() is None:
            if heartbeats.unanswered(self._heartbeat_dir) == 0 or at_once.wait(0.1):
                break
        self._end(EXIT_TIMEOUT_S + END_GRACE_S, at_once)

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
            "--grpc-http2-max-ping-strikes=0",  # clients may ping without limit during long requests
            "--disable-auto-complete-config",  # the configurations are complete; completion would cost an extra start
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            *options.extra_options,
        ]

    def _check(self, when: str = "", cure: str | None = None) -> None:
        """Raises ServerFailed if a process or engine is dead or stuck; `when`, `cure`: message parts for a dead one."""
        died, details = (f"died {when}" if when else "died"), ([cure] if cure else [])
        if self._process.poll() is not None:
            message = f"tritonserver {died} (status {self._process.returncode})"
            raise ServerFailed(message, self._failure_lines() + details)
        for stub in self._stubs:
            if not is_alive(stub):
                model = served_model(self._commands.get(stub.pid, []))
                raise ServerFailed(f"the process of model {model} {died} (pid {stub.pid})", details)
        for name, age_s in heartbeats.ages_s(self._heartbeat_dir).items():
            if age_s > self._options.stall_timeout_s:
                raise ServerFailed(f"engine {name} is stuck: no sign of life for {age_s:.0f} s")
        self._health_failures = 0 if self._options.address.is_healthy("live") else self._health_failures + 1
        if self._health_failures >= HEALTH_FAILURES:
            raise ServerFailed(f"tritonserver is stuck: {HEALTH_FAILURES} health checks in a row failed")

    def _find_stubs(self) -> list[psutil.Process]:
        """Finds the running stubs; a dead one is a zombie, whose command line is gone."""
        stubs = stubs_below(self._process.pid)
        for stub in stubs:
            with contextlib.suppress(psutil.Error):
                self._commands.setdefault(stub.pid, stub.cmdline())
        return stubs

    def _end(self, grace_s: float, at_once: threading.Event | None = None) -> None:
        """Ends the server and its stubs, and removes the shared memory that a killed server leaves."""
        family = set(self._stubs)
        if self._process.poll() is None:
            family.update(psutil.Process(self._process.pid).children(recursive=True))
            self._process.send_signal(signal.SIGTERM)
            give_up_at = time.monotonic() + grace_s
            while self._process.poll() is None and time.monotonic() < give_up_at:
                if at_once is not None and at_once.is_set():
                    break
                time.sleep(END_POLL_S)
            self._process.kill()
            self._process.wait()
        end(family, END_GRACE_S)
        self._guard.dismiss()
        self._log.join(END_GRACE_S)
        for region in SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
            region.unlink(missing_ok=True)

    def _failure_lines(self) -> list[str]:
        self._log.join(END_GRACE_S)
        return self._log.failure_lines()
