"""/demo without a browser: what is served, under which policy, and what `DEMO=off` leaves out."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from gateway.app import create_app
from gateway.routes.page import PAGE
from gateway.settings import Settings

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
MOST_BYTES = 150_000
MOST_LINES = 300
FILES = sorted(path.name for path in PAGE.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(triton_grpc_url="127.0.0.1:1")), follow_redirects=False) as client:
        yield client


def test_the_page_runs_no_code_but_its_own(client: TestClient) -> None:
    page = client.get("/demo")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src 'self'" in policy and "connect-src 'self'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert not re.search(r"<script>|<style>|\sstyle=|\son\w+=", page.text)  # the policy would forbid it


def test_what_the_page_names_is_served(client: TestClient) -> None:
    references = re.findall(r"""(?:src|href)="([^"#]+)\"""", client.get("/demo").text)
    assert set(references) >= {"demo/page.js", "demo/look.css", "demo/layout.css", "demo/icon.svg", "docs"}
    for reference in references:
        assert client.get(f"/{reference}").status_code == 200


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_asked_for_again_and_not_sent_again(client: TestClient, name: str) -> None:
    first = client.get(f"/demo/{name}")
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    assert first.headers["content-type"].startswith(types[Path(name).suffix])
    assert first.headers["cache-control"] == "no-cache"
    assert client.get(f"/demo/{name}", headers={"If-None-Match": first.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("name", FILES)
def test_a_script_imports_its_neighbours_only(name: str) -> None:
    imported = re.findall(r"""(?:from|import)\s*\(?["']([^"']+)["']""", (PAGE / name).read_text())
    assert {path.removeprefix("./") for path in imported} <= set(FILES)


def test_the_page_is_light() -> None:
    assert sum((PAGE / name).stat().st_size for name in FILES) < MOST_BYTES


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".css"))])
def test_a_file_is_short_and_says_what_it_is_for(name: str) -> None:
    text = (PAGE / name).read_text()
    assert text.startswith("/*")
    assert len(text.splitlines()) <= MOST_LINES


def test_a_browser_is_sent_to_the_page_and_a_program_is_greeted(client: TestClient) -> None:
    sent = client.get("/", headers=BROWSER)
    assert (sent.status_code, sent.headers["location"]) == (307, "demo")
    for accept in ("*/*", "application/json"):
        assert client.get("/", headers={"Accept": accept}).json()["message"].startswith("Welcome")


def test_a_slash_too_many_leads_to_the_page(client: TestClient) -> None:
    sent = client.get("/demo/")
    assert (sent.status_code, sent.headers["location"]) == (307, "../demo")


@pytest.mark.parametrize("name", ["nothing.js", "../settings.py", "%2e%2e/settings.py", "..%2fsettings.py", "samples"])
def test_other_files_are_not_served(client: TestClient, name: str) -> None:
    assert client.get(f"/demo/{name}").status_code == 404


def test_the_page_knows_what_the_settings_leave_out(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    settings = Settings(triton_grpc_url="127.0.0.1:1", docs="off", url_fetch="off", api_keys_file=keys)
    with TestClient(create_app(settings)) as client:
        assert client.get("/demo/facts.json").json() == {"keys": True, "docs": False, "url_fetch": False}


def test_without_the_page_a_browser_is_greeted_like_a_program() -> None:
    with TestClient(create_app(Settings(triton_grpc_url="127.0.0.1:1", demo="off"))) as client:
        assert client.get("/", headers=BROWSER).json()["message"].startswith("Welcome")
        assert {client.get(path).status_code for path in ("/demo", "/demo/page.js", "/demo/facts.json")} == {404}
