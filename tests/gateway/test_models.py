"""GET /models, from what Triton's metrics say."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gateway.app import create_app
from gateway.door.deadline import Deadline
from gateway.errors import ApiError
from gateway.settings import Settings
from gateway.triton.model_catalog import MIN_RETRY_AFTER_S, TIMEOUT_S, ModelCatalog

METRICS = """\
# HELP nv_inference_count Number of inferences performed
# TYPE nv_inference_count counter
nv_inference_count{model="segment",version="1"} 7
# HELP paligemma_models_loaded Checkpoints in memory, by model_id.
# TYPE paligemma_models_loaded gauge
paligemma_models_loaded{instance="paligemma_0_0",model_id="google/paligemma2-3b-mix-448",dtype="bfloat16"} 1
paligemma_models_loaded{instance="paligemma_0_1",model_id="google/paligemma2-3b-mix-448",dtype="bfloat16"} 1
paligemma_models_loaded{instance="paligemma_0_1",model_id="google/paligemma-3b-mix-224@main",dtype="float32"} 1
paligemma_models_loaded{instance="paligemma_0_1",model_id="google/gone",dtype="float32"} 0
# HELP paligemma_models_loading Checkpoints being fetched or loaded, by model_id.
# TYPE paligemma_models_loading gauge
paligemma_models_loading{instance="paligemma_0_0",model_id="google/paligemma2-10b-mix-448"} 1
"""


class FakeMetrics(HTTPServer):
    """What Triton's metrics endpoint would say."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MetricsHandler)
        self.status, self.text, self.asked = 200, METRICS, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/metrics"


class MetricsHandler(BaseHTTPRequestHandler):
    server: FakeMetrics

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.text.encode())

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def triton() -> Iterator[FakeMetrics]:
    with FakeMetrics() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def client(url: str, **settings: Any) -> TestClient:
    app = create_app(Settings(triton_grpc_url="127.0.0.1:1", triton_metrics_url=url, **settings))
    return TestClient(app, raise_server_exceptions=False)


def test_what_is_loaded_and_loading(triton: FakeMetrics) -> None:
    with client(triton.url, allowed_model_ids="google/*, mine") as gateway:
        assert gateway.get("/models").json() == {
            "default": "google/paligemma2-3b-mix-448",
            "allowed": ["google/*", "mine"],
            "loaded": ["google/paligemma-3b-mix-224@main", "google/paligemma2-3b-mix-448"],
            "loading": ["google/paligemma2-10b-mix-448"],
            "dtypes": {
                "google/paligemma-3b-mix-224@main": ["float32"],
                "google/paligemma2-3b-mix-448": ["bfloat16"],
            },
        }


def test_replicas_may_compute_in_different_formats(triton: FakeMetrics) -> None:
    """And an engine of an older version does not say which it is."""
    with FakeMetrics() as second:
        second.text = METRICS.replace("bfloat16", "float16").replace(',dtype="float32"', "")
        thread = threading.Thread(target=second.serve_forever, args=(0.05,))
        thread.start()
        with client(f"{triton.url},{second.url}") as gateway:
            both = gateway.get("/models").json()
        with client(second.url) as gateway:
            one = gateway.get("/models").json()
        second.shutdown()
        thread.join()
    assert both["dtypes"] == {
        "google/paligemma-3b-mix-224@main": ["float32"],
        "google/paligemma2-3b-mix-448": ["bfloat16", "float16"],
    }
    assert one["dtypes"] == {"google/paligemma-3b-mix-224@main": [], "google/paligemma2-3b-mix-448": ["float16"]}


def test_what_replicas_have_is_put_together(triton: FakeMetrics) -> None:
    """Those that do not answer are passed over."""
    other = load_metrics(5.0).replace("models_loading", "models_loaded")
    with FakeMetrics() as second:
        second.text = other
        thread = threading.Thread(target=second.serve_forever, args=(0.05,))
        thread.start()
        with client(f"{triton.url}, {second.url},http://127.0.0.1:1/metrics") as gateway:
            said = gateway.get("/models").json()
        second.shutdown()
        thread.join()
    assert said["loaded"] == ["google/new", "google/paligemma-3b-mix-224@main", "google/paligemma2-3b-mix-448"]
    assert said["loading"] == ["google/paligemma2-10b-mix-448"]


def test_the_metrics_of_a_names_addresses_are_asked_for(triton: FakeMetrics) -> None:
    """Whatever host the URL names: that may be a Service, which leads to any of them."""
    url = f"http://nowhere.invalid:{triton.server_port}/metrics"
    settings = Settings(triton_grpc_url="dns:///localhost:1", triton_metrics_url=url)
    with TestClient(create_app(settings), raise_server_exceptions=False) as gateway:
        assert len(gateway.get("/models").json()["loaded"]) == 2


def test_triton_is_asked_once_a_second_at_most(triton: FakeMetrics) -> None:
    with client(triton.url) as gateway:
        for _ in range(20):
            assert gateway.get("/models").status_code == 200
    assert triton.asked <= 3


def load_metrics(load_s: float, loading: str = "google/new") -> str:
    return f"""\
# TYPE paligemma_models_loading gauge
paligemma_models_loading{{instance="a",model_id="{loading}"}} 1
# TYPE paligemma_model_load_seconds gauge
paligemma_model_load_seconds{{instance="a"}} {load_s}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (load_metrics(90.0), range(60, 91)),
        (load_metrics(0.1), range(2, 3)),
        (load_metrics(3600.0), range(120, 121)),
        ("", range(2, 3)),
        ("no { metrics", range(2, 3)),
    ],
)
def test_retry_after_follows_the_load(
    triton: FakeMetrics, monkeypatch: pytest.MonkeyPatch, text: str, expected: range
) -> None:
    """Everybody was told to come again in a second, while a model took minutes to load."""

    async def loading(self: Any, request: bytes, *, timeout_s: float) -> None:
        raise ApiError("loading", "the model is being loaded; try again later")

    monkeypatch.setattr("gateway.triton.client.TritonSegmenter.segment", loading)
    triton.text = text
    with client(triton.url) as gateway:
        response = gateway.post("/segment", data={"prompt": "cat"}, files={"image_file": b"x"})
    assert (response.status_code, response.json()["code"]) == (503, "loading")
    assert int(response.headers["Retry-After"]) in expected


def test_a_load_is_as_old_as_its_first_request_says(triton: FakeMetrics) -> None:
    async def ask() -> list[int]:
        catalog = ModelCatalog(Settings(triton_metrics_url=triton.url))
        later = Deadline(60.0)
        triton.text = load_metrics(100.0)
        told = [await catalog.retry_after_s(60.0, later), await catalog.retry_after_s(1.0, later)]
        triton.text = load_metrics(100.0, "google/next")
        told.append(await catalog.retry_after_s(1.0, later))
        await catalog.close()
        return told

    first, second, other = asyncio.run(ask())
    assert second <= first <= 40
    assert other > 60


@pytest.mark.parametrize(("status", "text"), [(500, METRICS), (200, "no { metrics"), (404, "")])
def test_a_server_that_does_not_say(triton: FakeMetrics, status: int, text: str) -> None:
    triton.status, triton.text = status, text
    with client(triton.url) as gateway:
        response = gateway.get("/models")
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        triton.status, triton.text = 200, METRICS
        assert gateway.get("/models").status_code == 200


def test_retry_after_is_not_waited_for_beyond_the_deadline() -> None:
    """A metrics endpoint that takes the connection and says nothing."""

    async def ask() -> tuple[int, float]:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            catalog = ModelCatalog(Settings(triton_metrics_url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
            started = time.monotonic()
            told = await catalog.retry_after_s(1.0, Deadline(0.05))
            took_s = time.monotonic() - started
            await catalog.close()
        return told, took_s

    told, took_s = asyncio.run(ask())
    assert told == MIN_RETRY_AFTER_S
    assert took_s < TIMEOUT_S


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/metrics", "http://a:b:c/metrics", "nonsense"])
def test_no_server(url: str) -> None:
    with client(url) as gateway:
        assert gateway.get("/models").status_code == 503


def test_it_needs_a_key_where_there_are_keys(triton: FakeMetrics, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret\n")
    with client(triton.url, api_keys_file=tmp_path / "keys") as gateway:
        assert gateway.get("/models").status_code == 401
        assert gateway.get("/models", headers={"Authorization": "Bearer secret"}).status_code == 200
