"""A stand-in for the gateway that answers as it is told, for what a real one does when no test can choose it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG_UP = "hang up"  # instead of an answer: the connection is closed

Answer = tuple[int, dict[str, str], bytes] | str


def answer(objects: list[dict[str, Any]] | None = None, **fields: Any) -> Answer:
    """A success of /segment on a picture of 8 x 6 pixels."""
    body = {
        "image": None,
        "masks": objects or [],
        "text": "",
        "model_id": "scripted",
        "image_size": {"width": 8, "height": 6},
        "timings_ms": {"inference": 1.0},
        "request_id": "r1",
        **fields,
    }
    return 200, {"content-type": "application/json"}, json.dumps(body).encode()


def failure(status: int, code: str, **headers: str) -> Answer:
    """An error of the gateway."""
    body = {"status": "error", "detail": "in words", "code": code, "request_id": "r2"}
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()


def events(*parts: tuple[str, dict[str, Any]]) -> Answer:
    """Server-sent events."""
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in parts)
    return 200, {"content-type": "text/event-stream"}, text.encode()


@dataclass
class ScriptedGateway:
    """Answers by path, one after the other; the last one again and again. Paths without answers are 404."""

    url: str
    answers: dict[str, list[Answer]]
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def bodies(self, path: str = "/segment") -> list[str]:
        return [body.decode(errors="replace") for asked, _, body in self.requests if asked == path]


@contextmanager
def scripted_gateway(**answers: list[Answer]) -> Iterator[ScriptedGateway]:
    """A running one; answers by the last part of a path: `segment`, `stream`, `models`, or a picture's name."""
    paths = {"stream": "/segment/stream"}
    gateway = ScriptedGateway("", {paths.get(name, f"/{name}"): script for name, script in answers.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            gateway.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            script = gateway.answers.get(self.path, [failure(404, "not_found")])
            chosen = script.pop(0) if len(script) > 1 else script[0]
            if isinstance(chosen, str):
                self.close_connection = True
                return
            status, headers, content = chosen
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gateway.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
