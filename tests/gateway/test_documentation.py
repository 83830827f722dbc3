"""/docs and /redoc: pages that load nothing from another host."""

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from gateway.app import create_app
from gateway.settings import Settings


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(triton_grpc_url="127.0.0.1:1"))) as client:
        yield client


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_what_the_gateway_serves_and_nothing_else(client: TestClient, path: str) -> None:
    """Scripts came from a CDN: without the internet the pages were white, and with it they ran others' code."""
    page = client.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    references = re.findall(r"""(?:src|href)=["']([^"']*)["']""", page.text)
    assert len(references) >= 4
    types = {"js": "text/javascript", "css": "text/css", "png": "image/png"}
    for reference in references:
        assert re.fullmatch(r"static/[\w.-]+", reference), reference
        served = client.get(f"/{reference}")
        assert served.status_code == 200, reference
        assert served.headers["content-type"].startswith(types[reference.rpartition(".")[2]])
    assert not re.search(r"<script>|<style>|style=|onload=|https?:", page.text)  # the policy would forbid it
    policy = page.headers["content-security-policy"]  # stops ReDoc's logo, too, which would come from elsewhere
    assert "script-src 'self'" in policy and "connect-src 'self'" in policy
    assert "unsafe" not in policy and "http" not in policy


def test_what_a_page_loads_is_asked_for_again_and_not_sent_again(client: TestClient) -> None:
    first = client.get("/static/swagger-ui-bundle.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/swagger-ui-bundle.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "../settings.py", "%2e%2e/settings.py", "..%2fsettings.py", ""])
def test_other_files_are_not_served(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


def test_without_documentation_its_files_are_not_served() -> None:
    with TestClient(create_app(Settings(triton_grpc_url="127.0.0.1:1", docs="off"))) as client:
        assert client.get("/static/swagger-ui-bundle.js").status_code == 404


def test_the_schema_describes_the_stream_and_its_errors(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    stream, whole = (paths[path]["post"] for path in ("/segment/stream", "/segment"))
    assert stream["requestBody"] == whole["requestBody"]
    (content,) = stream["responses"]["200"]["content"].items()
    assert content[0] == "text/event-stream"
    assert re.findall("^event: (.*)$", content[1]["example"], re.MULTILINE) == ["accepted", "object", "done"]
    errors = stream["responses"].keys() - {"200"}
    assert errors == whole["responses"].keys() - {"200"}
