"""Who may use the API: keys, other origins' pages; and what browsers are told."""

import logging
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from stack import Ports, answers_200, gateway, wait_until

from gateway.app import create_app
from gateway.door.access import LOOK_EVERY_S, KeyFile
from gateway.settings import Settings

NO_TRITON = "127.0.0.1:1"


def client(**settings: Any) -> TestClient:
    return TestClient(create_app(Settings(triton_grpc_url=NO_TRITON, **settings)), raise_server_exceptions=False)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# the app\nfirst-key\n\n  second-key  \n", encoding="utf-8")
    return path


def status(client: TestClient, authorization: str | None) -> tuple[int, str]:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = client.post("/segment", data={"prompt": "cat"}, headers=headers)
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize("authorization", ["Bearer first-key", "Bearer second-key", "bearer first-key"])
def test_every_key_opens(keys_file: Path, authorization: str) -> None:
    with client(api_keys_file=keys_file) as opened:
        assert status(opened, authorization) == (400, "missing_image")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer first-ke",
        "Bearer first-key-",
        "Basic first-key",
        "first-key",
    ],
)
def test_nothing_else_opens(keys_file: Path, authorization: str | None) -> None:
    with client(api_keys_file=keys_file) as shut:
        assert status(shut, authorization) == (401, "unauthorized")
        refused = shut.post("/segment/", headers={"Authorization": authorization or ""})
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_comments_are_no_keys(keys_file: Path) -> None:
    assert KeyFile(keys_file).find("# the app") is None
    assert KeyFile(keys_file).find("") is None


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": "second-key"}, {"X-API-Key": "x", "Authorization": "Bearer first-key"}]
)
def test_a_header_of_its_own_opens_as_well(keys_file: Path, headers: dict[str, str]) -> None:
    with client(api_keys_file=keys_file) as opened:
        assert opened.post("/segment", data={"prompt": "cat"}, headers=headers).json()["code"] == "missing_image"
        assert opened.post("/segment", headers={"X-API-Key": "wrong"}).status_code == 401


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == "gateway.access"]


def test_the_log_has_the_name_and_never_the_key(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys_file.write_text("the app : s3cret\nother:with:colon\nplain\n", encoding="utf-8")
    with client(api_keys_file=keys_file) as opened:
        for key in ("s3cret", "with:colon", "plain", "wr0ng"):
            opened.post("/segment", data={"prompt": "cat"}, headers={"X-API-Key": key})
    assert [line.get("key_name") for line in access_lines(caplog)] == ["the app", "other", None, None]
    logged = str([record.__dict__ for record in caplog.records])
    assert not [key for key in ("s3cret", "with:colon", "wr0ng") if key in logged]


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(
    keys_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leaked key could only be taken back with a restart."""
    now = time.monotonic()
    monkeypatch.setattr("gateway.door.access.time.monotonic", lambda: now)
    keys = KeyFile(keys_file)
    keys_file.write_text("new:new-key\n", encoding="utf-8")
    assert keys.find("first-key") and not keys.find("new-key")  # not a second has passed
    now += LOOK_EVERY_S
    assert keys.find("new-key") and not keys.find("first-key")
    for broken in (b"", b"# none\n", b"name:\n", b":key\n", b"\xff\xfe"):
        keys_file.write_bytes(broken)
        now += LOOK_EVERY_S
        assert keys.find("new-key"), broken
    keys_file.unlink()
    for _ in range(3):
        now += LOOK_EVERY_S
        assert keys.find("new-key")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 6
    keys_file.write_text("last-key\n", encoding="utf-8")
    keys.reload()
    assert keys.find("last-key") and not keys.find("new-key")


def test_sighup_reads_the_keys_and_ends_nothing(keys_file: Path) -> None:
    ports = Ports.free()
    with gateway(ports, API_KEYS_FILE=str(keys_file), TRITON_GRPC_URL=NO_TRITON) as server:
        wait_until(lambda: answers_200(f"http://127.0.0.1:{ports.gateway}/healthz"), 20, "gateway alive")
        server.process.send_signal(signal.SIGHUP)
        assert '"keys": 2' in server.wait_for_line("API_KEYS_FILE was read again", 10)
        assert answers_200(f"http://127.0.0.1:{ports.gateway}/healthz")


def test_sighup_without_keys_ends_nothing() -> None:
    ports = Ports.free()
    with gateway(ports, TRITON_GRPC_URL=NO_TRITON) as server:
        wait_until(lambda: answers_200(f"http://127.0.0.1:{ports.gateway}/healthz"), 20, "gateway alive")
        server.process.send_signal(signal.SIGHUP)
        assert answers_200(f"http://127.0.0.1:{ports.gateway}/healthz")


def test_probes_and_metrics_need_no_key(keys_file: Path) -> None:
    with client(api_keys_file=keys_file) as shut:
        assert [shut.get(path).status_code for path in ("/", "/healthz", "/metrics", "/docs")] == [200] * 4


def test_without_a_file_everybody_may_come_in() -> None:
    with client() as opened:
        assert status(opened, None) == (400, "missing_image")


def test_a_file_without_keys_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no key in it"):
        create_app(Settings(api_keys_file=tmp_path / "keys"))
    with pytest.raises(FileNotFoundError):
        create_app(Settings(api_keys_file=tmp_path / "missing"))


@pytest.mark.parametrize("key", ["schlüssel", "key\x07", "key\ufeff"])
def test_a_key_that_no_header_can_hold_is_refused_at_the_start(keys_file: Path, key: str) -> None:
    """It was taken, and opened nothing."""
    keys_file.write_text(f"good\nbad:{key}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="printable ASCII") as refusal:
        KeyFile(keys_file)
    assert key not in str(refusal.value)


def test_a_byte_order_mark_is_no_part_of_a_key(keys_file: Path) -> None:
    """Editors of Windows write one."""
    keys_file.write_text("first-key\n", encoding="utf-8-sig")
    assert KeyFile(keys_file).find("first-key")


def test_the_scheme_is_documented_where_there_are_keys(keys_file: Path) -> None:
    with client(api_keys_file=keys_file) as shut:
        documented = shut.get("/openapi.json").json()
    assert documented["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert documented["paths"]["/segment"]["post"]["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}]
    with client() as opened:
        assert "security" not in opened.get("/openapi.json").json()["paths"]["/segment"]["post"]


def preflight(client: TestClient, origin: str) -> Any:
    return client.options("/segment", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})


def test_other_origins_only_where_configured() -> None:
    app, other = "https://app.example", "https://other.example"
    with client() as closed:
        assert "access-control-allow-origin" not in preflight(closed, app).headers
    with client(cors_origins="https://app.example, https://b.example") as opened:
        assert preflight(opened, app).headers["access-control-allow-origin"] == app
        assert "access-control-allow-origin" not in preflight(opened, other).headers
        response = opened.post("/segment", headers={"Origin": app})
        assert response.headers["access-control-allow-origin"] == app
        assert "X-Request-ID" in response.headers["access-control-expose-headers"]


def test_a_page_may_read_every_error() -> None:
    """An answer without CORS headers is a "network error" to a page, whatever it says."""
    app = create_app(
        Settings(triton_grpc_url=NO_TRITON, cors_origins="https://app.example", max_image_bytes=10)  # type: ignore[arg-type]
    )

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    headers = {"Origin": "https://app.example"}
    with TestClient(app, raise_server_exceptions=False) as opened:
        answers = [
            opened.get("/broken", headers=headers),
            opened.get("/nowhere", headers=headers),
            opened.get("/segment", headers=headers),
            opened.post("/segment", headers=headers),
            opened.post("/segment", headers=headers, data={"prompt": "cat"}),
            opened.post("/segment", headers=headers, data={"prompt": "x" * 3_000_000}),
            opened.post("/segment", headers=headers, json={"image_url": "data:,x"}),
            opened.post("/segment", headers=headers, data={"prompt": "cat"}, files={"image_file": b"x" * 11}),
            opened.post("/segment", headers=headers, data={"prompt": "cat"}, files={"image_file": b"x"}),
        ]
    assert [answer.status_code for answer in answers] == [500, 404, 405, 415, 400, 413, 422, 413, 503]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "https://app.example", answer.status_code
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize("path", ["/", "/segment", "/nowhere", "/docs", "/metrics"])
def test_browsers_are_told_to_be_careful(path: str) -> None:
    with client() as opened:
        headers = opened.get(path).headers
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "server" not in headers
