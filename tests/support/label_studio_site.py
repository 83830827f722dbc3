"""A stand-in for Label Studio's web server, as far as a backend fetches from it, and a gateway that is its backend."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from answering_triton import AnsweringTriton, Thing, answering_triton, disc
from fastapi.testclient import TestClient
from web import SITE

from gateway.app import create_app
from gateway.settings import Settings

KEY = "0123456789abcdef"
ORIGINAL_HW = (48, 64)
RING = disc(0.9, hole=0.3)
BOXES = {"cat": (0.0, 0.25, 0.5, 0.75), "big dog": (0.25, 0.25, 0.75, 0.75)}
INTERFACE = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="cat"/><Label value="Dog" prompt="big dog"/></BrushLabels>
</View>
"""


@dataclass
class LabelStudioSite:
    """`pages` by path with query: status, headers, body; `asked`: method, path and Authorization of each request."""

    pages: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{SITE}:{self.port}"


@contextmanager
def label_studio_site(pages: dict[str, Any]) -> Iterator[LabelStudioSite]:
    """Serves pages; bytes are a picture."""
    site = LabelStudioSite(
        {
            path: (200, {"Content-Type": "image/png"}, page) if isinstance(page, bytes) else page
            for path, page in pages.items()
        }
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            site.asked.append((self.command, self.path, self.headers.get("Authorization")))
            status, headers, body = site.pages.get(self.path, (404, {}, b""))
            if "*/*" not in self.headers.get("Accept", ""):  # its framework has no renderer for images
                status, body = 406, b""
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_arguments: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer((SITE, 0), Handler)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Backend:
    """A gateway with its Label Studio and its Triton."""

    client: TestClient
    site: LabelStudioSite
    triton: AnsweringTriton

    def predict(self, *values: Any, interface: str = INTERFACE, **fields: Any) -> list[dict[str, Any]]:
        """The entries for tasks whose pictures are there; there must be one for each."""
        tasks = [{"id": number, "data": {"image": value}, "project": 1} for number, value in enumerate(values, start=1)]
        body = {"tasks": tasks, "label_config": interface, "project": "1.1", "params": {"context": None}, **fields}
        response = self.client.post("/label-studio/predict", json=body)
        assert response.status_code == 200, response.text
        entries: list[dict[str, Any]] = response.json()["results"]
        assert len(entries) == len(tasks)
        return entries


def find(target: str) -> list[Thing]:
    """A ring for each target."""
    return [Thing(BOXES.get(target, (0.25, 0.25, 0.75, 0.75)), mask=RING)]


@contextmanager
def backend(
    pages: dict[str, Any] | None = None, triton: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Backend]:
    """All three; `triton` are its attributes, `settings` the gateway's."""
    options = {"size": ORIGINAL_HW, **(triton or {})}
    with label_studio_site(pages or {}) as site, answering_triton(find, **options) as started:
        defaults = {"label_studio_url": site.url, "label_studio_api_key": KEY, "model_id": "org/model@abc"}
        app = create_app(Settings(triton_grpc_url=started.address, **{**defaults, **settings}))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield Backend(client, site, started)
