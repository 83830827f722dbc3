"""What operators see of a request, and what they must not see."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from web import SITE, redirect, site

from gateway.app import create_app
from gateway.documentation import ERROR_EXAMPLES, error_responses
from gateway.errors import STATUS_OF_CODE
from gateway.settings import Settings
from gateway.watching.logs import JsonFormatter, configure_logging

NO_TRITON = "127.0.0.1:1"


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = create_app(Settings(triton_grpc_url=NO_TRITON))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a secret of ours")

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.name == logger]


def samples(client: TestClient) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in families
        for sample in family.samples
    }


def test_one_access_line_for_each_request(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = "http://10.0.0.1/picture?token=secret"
    headers = {"X-Request-ID": "my-id", "Authorization": "Bearer secret"}
    client.post("/segment?key=secret", data={"prompt": "cat", "image_url": url}, headers=headers)
    client.post("/segment", data={"prompt": "cat"}, files={"image_file": b"x" * 70})
    client.get("/nowhere/secret")
    client.get("/healthz")
    fetched, uploaded, unmatched = lines(caplog, "gateway.access")
    assert (fetched["request_id"], fetched["status"], fetched["code"]) == ("my-id", 400, "fetch_failed")
    assert set(fetched["phases_ms"]) == {"receive", "fetch"}
    assert (uploaded["code"], uploaded["image_bytes"]) == ("unavailable", 70)
    assert set(uploaded["phases_ms"]) == {"receive", "inference"}
    assert (unmatched["route"], unmatched["status"], unmatched["method"]) == ("unmatched", 404, "GET")
    for line in (fetched, uploaded, unmatched):
        assert line["duration_ms"] > 0 and line["response_bytes"] > 0
    assert (fetched["reason"], fetched["host"]) == ("private", "10.0.0.1")
    assert "failed to connect to all addresses" in uploaded["cause"]
    ours = [record.__dict__ for record in caplog.records if record.name.startswith("gateway.")]
    assert "secret" not in str(ours)


@pytest.mark.parametrize(
    ("answer", "causes"),
    [
        (b"nonsense\r\n\r\n", ["RemoteProtocolError"]),
        (b"", ["RemoteProtocolError"]),
        (redirect("http://x:secret/"), []),
    ],
)
def test_why_a_fetch_failed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answer: bytes, causes: list[str]
) -> None:
    """The access line says it, without the URL; the caller is not told."""
    caplog.set_level(logging.INFO)

    async def run() -> Any:
        app = create_app(Settings(triton_grpc_url=NO_TRITON, url_fetch_allowed_networks=f"{SITE}/32"))  # type: ignore[arg-type]
        transport = httpx2.ASGITransport(app)
        async with (
            site({"/image?token=secret": answer}) as served,
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client,
        ):
            url = served.url("/image?token=secret", host=SITE)
            return await client.post("/segment", data={"prompt": "cat", "image_url": url})

    response = asyncio.run(run())
    assert response.json()["code"] in ("fetch_failed", "invalid_url")
    (line,) = lines(caplog, "gateway.access")
    assert line["request_id"] == response.json()["request_id"]
    assert all(cause in line.get("cause", "") for cause in causes)
    assert "secret" not in json.dumps(line)


def test_what_nobody_foresaw(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets an id and nothing else; the log has the trace under that id."""
    response = client.get("/broken")
    body = response.json()
    assert (response.status_code, body["code"]) == (500, "internal")
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "secret" not in response.text
    (failure,) = lines(caplog, "gateway.errors")
    assert failure["request_id"] == body["request_id"]
    assert "a secret of ours" in failure["exception"]


def test_metrics_by_route_template(client: TestClient) -> None:
    client.post("/segment", data={"prompt": "cat", "image_url": "http://127.0.0.1/"})
    client.post("/segment/", data={"prompt": "cat"}, files={"image_file": b"x"})
    client.get("/a")
    client.get("/b")
    found = samples(client)
    assert found["gateway_requests_total['/segment', '400']"] == 1
    assert found["gateway_requests_total['/segment/', '503']"] == 1
    assert found["gateway_requests_total['404', 'unmatched']"] == 2
    assert found["gateway_requests_rejected_total['fetch_failed']"] == 1
    assert found["gateway_fetches_blocked_total['private']"] == 1
    assert found["gateway_phase_seconds_count['inference']"] == 1
    assert found["gateway_requests_in_flight[]"] == 0
    assert found["process_resident_memory_bytes[]"] > 0 and found["process_open_fds[]"] > 0
    assert found["gateway_image_bytes_count[]"] == 1


def test_every_error_example_is_of_a_code_that_exists() -> None:
    assert set(ERROR_EXAMPLES) <= set(STATUS_OF_CODE)
    documented = set(error_responses())
    assert documented == {400, 401, 403, 404, 408, 413, 415, 422, 502, 503, 504}
    never_seen_by_callers = {405, 499}
    assert set(STATUS_OF_CODE.values()) == documented | never_seen_by_callers


def test_traces_are_off_by_default_and_pass_on_their_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span for the request in the caller's trace, and the same trace in what Triton is sent."""
    sent: list[dict[str, str]] = []

    async def infer(*_arguments: Any, metadata: tuple[tuple[str, str], ...], **_options: Any) -> None:
        sent.append(dict(metadata))
        raise RuntimeError

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    for traces in ("off", "on"):
        app = create_app(Settings(triton_grpc_url=NO_TRITON, traces=traces))  # type: ignore[arg-type]
        with TestClient(app, raise_server_exceptions=False) as client:
            monkeypatch.setattr(app.state.services.segmenter, "_infer", infer)
            headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
            client.post("/segment", data={"prompt": "cat"}, files={"image_file": b"x"}, headers=headers)
            client.get("/healthz")
    assert sent[0] == {}
    assert sent[1]["traceparent"].split("-")[1] == trace_id
    spans = exporter.get_finished_spans()
    assert {format(span.context.trace_id, "032x") for span in spans if span.context} == {trace_id}
    assert "POST /segment" in {span.name for span in spans}


def test_the_log_has_no_line_for_what_a_form_looks_like(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser warned of every form that it could not read, in words that mean nothing to an operator."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging()
    try:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        assert client.post("/segment", content=b"no form", headers=headers).status_code == 400
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    loggers = {json.loads(line)["logger"] for line in capsys.readouterr().err.splitlines()}
    assert loggers - {"httpx2"} == {"gateway.access"}  # httpx2 is this test's client
