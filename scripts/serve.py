"""Runs Triton under supervision: starts it, waits until every model is ready, watches it, stops it cleanly.

Triton does not notice when the process of a Python model dies or hangs: it stays "ready", and requests wait for ever.
This supervisor notices. It reports ready after a first request of its own has been answered. It watches

    the server process and its health endpoint,
    the stub processes, one for each instance of a Python model,
    the engines' heartbeat files (which also hold the number of unanswered requests).

When one of them is dead or stuck, it stops the server, says why in the last line, and exits with status 1; with
--restart it starts the server again. With --metrics-port it publishes the number of restarts for Prometheus, and
/ready on that port says whether requests are answered. After SIGTERM or SIGINT running requests may finish within
--drain-timeout-s; a second signal stops the server at once.
"""

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from parts.serve.cures import find_cures
from parts.serve.metrics import SupervisorMetrics
from parts.serve.output import write_text
from parts.serve.ports import Port, PortError, check_ports
from parts.serve.processes import SHARED_MEMORY
from parts.serve.server import Server, ServerFailed, ServerOptions

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_FAILURES = 5  # with --restart: failures in a row after which the supervisor gives up
HEALTHY_AFTER_S = 120.0  # a server that was ready for this long resets that count; time to load is not included
RESTART_PAUSE_S = 1.0
HUB_CACHE_FOLDER = "huggingface"  # the engine's downloads, below MODELS_DIR


def main() -> int:
    """Returns the exit status: 0 after a signal, 1 after a failure, 2 for settings that cannot work."""
    arguments = parse_arguments()
    stop = install_signal_handlers()
    try:
        options = read_options(arguments)
        check_ports(options.host, [*options.ports, *metrics_ports(arguments)])
    except PortError as error:
        say(str(error))
        return 2
    cache = options.models_dir / HUB_CACHE_FOLDER
    with SupervisorMetrics(options.host, arguments.metrics_port, cache) as metrics:
        return supervise(options, stop, metrics, restart_wanted=arguments.restart)


def supervise(options: ServerOptions, stop: "Stop", metrics: SupervisorMetrics, *, restart_wanted: bool) -> int:
    """Runs servers, one after another, until a stop or a failure that a restart cannot fix; returns the exit status."""
    failures = 0
    restart = False  # before the first server has become ready, a failure ends the supervisor: a person must look at it
    while True:
        run = Run(options, stop, metrics)
        try:
            run.to_its_end()
        except ServerFailed as failure:
            failures = 1 if run.ready_for_s() >= HEALTHY_AFTER_S else failures + 1
            restart = restart or (restart_wanted and run.ready_at_s is not None)
            details = [*failure.details, *find_cures(failure.details)]
            if not restart or failures >= MAX_FAILURES or stop.requested.is_set():
                say(str(failure), *details)
                say("the server has been ended")
                return 1
            say(f"{failure}; starting the server again", *details)
            metrics.restarts += 1
            stop.requested.wait(RESTART_PAUSE_S)
        else:
            say("stopped")
            return 0


class Run:
    """One server from its start to its end.

    Attributes:
        ready_at_s: time of its first answer, on the monotonic clock; None if it never answered.
    """

    def __init__(self, options: ServerOptions, stop: "Stop", metrics: SupervisorMetrics) -> None:
        self._options, self._stop, self._metrics = options, stop, metrics
        self.ready_at_s: float | None = None

    def ready_for_s(self) -> float:
        """Seconds since it became ready; 0 if it never did."""
        return 0.0 if self.ready_at_s is None else time.monotonic() - self.ready_at_s

    def to_its_end(self) -> None:
        """Runs the server; returns after a stop. Raises ServerFailed."""
        started_at_s = time.monotonic()
        stop = self._stop.requested
        # Heartbeats are written to memory: on a full disk an engine could not write one.
        heartbeats = TemporaryDirectory(prefix="heartbeat-", dir=SHARED_MEMORY)
        with heartbeats as folder, Server(self._options, Path(folder)) as server:
            try:
                server.wait_ready(stop)
                server.wait_first_answer(stop)
                if not stop.is_set():
                    self.ready_at_s = time.monotonic()
                    self._metrics.ready = True
                    say(f"ready after {self.ready_at_s - started_at_s:.1f} s")
                server.watch(stop)
            finally:
                self._metrics.ready = False
            server.drain(self._stop.at_once)


class Stop:
    """The stops that signals have asked for."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.at_once = threading.Event()


def install_signal_handlers() -> Stop:
    """The first SIGTERM or SIGINT asks for a clean stop, the second for an immediate one."""
    stop = Stop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        (stop.at_once if stop.requested.is_set() else stop.requested).set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Runs Triton with this repository's models under supervision.")
    parser.add_argument("--model-repository", type=Path, default=REPOSITORY / "model_repository")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container")
    parser.add_argument("--restart", action="store_true", help="start the server again when it failed")
    parser.add_argument("--metrics-port", type=int, help="of the supervisor's own metrics; none without it")
    parser.add_argument("--drain-timeout-s", type=float, default=30.0, help="how long running requests may take to end")
    parser.add_argument(
        "--stall-timeout-s", type=float, default=120.0, help="a heartbeat this old means a stuck engine"
    )
    parser.add_argument(
        "--first-answer-timeout-s", type=float, default=300.0, help="how long the first request may take to be answered"
    )
    parser.add_argument("tritonserver_options", nargs="*", help="after --: passed on to tritonserver as they are")
    return parser.parse_args()


def metrics_ports(arguments: argparse.Namespace) -> list[Port]:
    """The port of the supervisor's own metrics, if any."""
    return [] if arguments.metrics_port is None else [Port("--metrics-port", arguments.metrics_port)]


def read_options(arguments: argparse.Namespace) -> ServerOptions:
    """The server's options from command line and environment; raises PortError."""
    models_dir = os.environ.get("MODELS_DIR") or os.environ.get("MODEL_DIR") or REPOSITORY / "models"
    return ServerOptions(
        model_repository=arguments.model_repository.resolve(),
        models_dir=Path(models_dir).resolve(),
        host=arguments.host,
        ports=ServerOptions.read_ports(os.environ),
        drain_timeout_s=arguments.drain_timeout_s,
        stall_timeout_s=arguments.stall_timeout_s,
        first_answer_timeout_s=arguments.first_answer_timeout_s,
        extra_options=tuple(arguments.tritonserver_options),
    )


def say(message: str, *details: str) -> None:
    """Prints a line of the supervisor among the server's output, and details below it, indented."""
    write_text(sys.stdout, "".join([f"serve: {message}\n", *(f"  {detail}\n" for detail in details)]))


if __name__ == "__main__":
    sys.exit(main())
