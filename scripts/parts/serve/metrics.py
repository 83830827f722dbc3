"""The supervisor's own metrics and readiness: for Prometheus, and for a container's health check."""

import shutil
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from parts.serve.processes import SHARED_MEMORY

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its name, type and help text."""

    name: str
    kind: str
    help: str


RESTARTS: Final = Family("supervisor_restarts_total", "counter", "Times that Triton was started again after a failure.")
STARTED: Final = Family("supervisor_start_time_seconds", "gauge", "When the supervisor was started, in Unix time.")
DISK_FREE: Final = Family("supervisor_disk_free_bytes", "gauge", "Space left where downloaded checkpoints go.")
SHARED_MEMORY_FREE: Final = Family(
    "supervisor_shared_memory_free_bytes", "gauge", "Space left in /dev/shm, through which tensors go."
)
FAMILIES: Final = (RESTARTS, STARTED, DISK_FREE, SHARED_MEMORY_FREE)


class SupervisorMetrics:
    """Serves `/metrics` and `/ready`; without a port it only counts.

    Attributes:
        restarts: how often Triton was started again.
        ready: whether Triton's models are ready and a request has been answered; `/ready` answers 200, else 503.
    """

    def __init__(self, host: str, port: int | None, cache: Path) -> None:
        """`cache`: the folder for downloads; if it does not exist yet, its nearest existing parent is measured."""
        self.restarts = 0
        self.ready = False
        self._started_at = time.time()
        self._cache = cache
        self._server = None if port is None else ThreadingHTTPServer((host, port), _handler(self))

    def __enter__(self) -> Self:
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def exposition(self) -> str:
        """The metrics in Prometheus' text format."""
        folder = next(path for path in (self._cache, *self._cache.parents) if path.is_dir())
        values = {
            RESTARTS: self.restarts,
            STARTED: self._started_at,
            DISK_FREE: shutil.disk_usage(folder).free,
            SHARED_MEMORY_FREE: shutil.disk_usage(SHARED_MEMORY).free,
        }
        return "".join(
            f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n{family.name} {values[family]}\n"
            for family in FAMILIES
        )


def _handler(metrics: SupervisorMetrics) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(HTTPStatus.OK, metrics.exposition(), CONTENT_TYPE)
            elif self.path == "/ready" and metrics.ready:
                self._answer(HTTPStatus.OK, "ready\n")
            elif self.path == "/ready":
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "no request has been answered yet\n")
            else:
                self._answer(HTTPStatus.NOT_FOUND, "here are /metrics and /ready\n")

        def _answer(self, status: HTTPStatus, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Logs nothing: one line per scrape would bury the server's lines."""

    return Handler
