"""How the pictures of Label Studio's tasks are had: from where, with which key, and who does not get it."""

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from label_studio_site import KEY, Backend, backend, label_studio_site
from pydantic import ValidationError
from web import CANARY, Canary

from gateway.dialects.label_studio import keys, routes
from gateway.settings import Settings

PICTURE = "/data/upload/1/a.png"
REFRESH_PATH = "/api/token/refresh/"


def token(kind: str, *, expires_in_s: float = 300.0) -> str:
    parts = ({"alg": "HS256"}, {"token_type": kind, "exp": time.time() + expires_in_s})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "signature"])


def answered(served: Backend, value: str) -> bool:
    """Whether the picture was had."""
    return bool(served.predict(value)[0].get("result"))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (PICTURE, PICTURE),
        ("upload/1/a.png", PICTURE),
        ("/data/local-files/?d=a%20b.png", "/data/local-files/?d=a%20b.png"),
        ("s3://bucket/a.png", "/tasks/1/presign/?fileuri=czM6Ly9idWNrZXQvYS5wbmc="),
        ("gs://bucket/a.png", "/tasks/1/presign/?fileuri=Z3M6Ly9idWNrZXQvYS5wbmc="),
    ],
)
def test_label_studios_own_pictures_are_fetched_with_its_key(value: str, path: str) -> None:
    with backend({path: b"a picture"}) as served:
        assert answered(served, value)
        assert served.site.asked == [("GET", path, f"Token {KEY}")]


def test_a_whole_url_of_label_studio_is_its_own() -> None:
    with backend({PICTURE: b"a picture"}) as served:
        assert answered(served, f"{served.site.url}{PICTURE}")
        assert served.site.asked == [("GET", PICTURE, f"Token {KEY}")]


def test_label_studio_below_a_path() -> None:
    with (
        label_studio_site({f"/ls{PICTURE}": b"a picture"}) as site,
        backend(label_studio_url=f"{site.url}/ls/", label_studio_api_key=KEY) as served,
    ):
        assert answered(served, PICTURE)
        assert answered(served, f"/ls{PICTURE}")
        assert site.asked == [("GET", f"/ls{PICTURE}", f"Token {KEY}")] * 2


def test_the_key_is_for_files_only() -> None:
    """A task's data is anybody's text; it must not choose what is asked in the name of the key's user."""
    with backend({"/api/users/1/avatar": b"a picture"}) as served:
        assert answered(served, "/api/users/1/avatar")
        assert not answered(served, "/data/../api/users/1/avatar?")
        assert [authorization for *_, authorization in served.site.asked] == [None, None]


def test_a_data_url_needs_no_fetching() -> None:
    with backend(url_fetch="off") as served:
        assert answered(served, "data:image/png;base64,YQ==")
        assert served.site.asked == []


def test_a_personal_access_token_is_exchanged_once() -> None:
    access = token("access")
    pages = {
        PICTURE: b"a picture",
        REFRESH_PATH: (200, {"Content-Type": "application/json"}, json.dumps({"access": access}).encode()),
    }
    with backend(pages, label_studio_api_key=token("refresh")) as served:
        assert all(entry["result"] for entry in served.predict(PICTURE, PICTURE, PICTURE))
        assert served.site.asked[0] == ("POST", REFRESH_PATH, None)
        assert [authorization for *_, authorization in served.site.asked[1:]] == [f"Bearer {access}"] * 3


def test_a_token_that_has_expired_is_exchanged_again() -> None:
    old = token("access", expires_in_s=10)
    pages = {
        PICTURE: b"a picture",
        REFRESH_PATH: (200, {"Content-Type": "application/json"}, json.dumps({"access": old}).encode()),
    }
    with backend(pages, label_studio_api_key=token("refresh")) as served:
        assert answered(served, PICTURE)
        assert answered(served, PICTURE)
        assert [path for _, path, _ in served.site.asked].count(REFRESH_PATH) == 2


def test_a_key_that_is_not_taken_leaves_the_tasks_for_later() -> None:
    """Otherwise a wrong key would fill a project with empty predictions."""
    with backend({PICTURE: (401, {}, b"")}) as served:
        assert "result" not in served.predict(PICTURE)[0]
    with backend({PICTURE: b"a picture"}, label_studio_api_key=token("refresh")) as served:  # no such path there
        assert "result" not in served.predict(PICTURE)[0]
    with backend({PICTURE: b"a picture"}, label_studio_api_key=None) as served:
        assert "result" not in served.predict(PICTURE)[0]


def test_the_key_may_be_in_a_file_that_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    with backend({PICTURE: b"a picture"}, label_studio_api_key=None, label_studio_api_key_file=file) as served:
        assert answered(served, PICTURE)
        file.write_text("another")
        assert answered(served, PICTURE)
        assert [authorization for *_, authorization in served.site.asked] == [f"Token {KEY}", "Token another"]


def test_no_other_private_address_is_reached_and_none_gets_the_key() -> None:
    canary = Canary()

    async def run() -> None:
        async with canary.listening() as port:
            elsewhere = f"http://{CANARY}:{port}/a.png"
            pages = {PICTURE: (302, {"Location": elsewhere}, b"")}
            with backend(pages) as served:
                entries = await asyncio.to_thread(served.predict, elsewhere, PICTURE)
            assert ["result" in entry for entry in entries] == [False, False]

    asyncio.run(run())
    assert canary.accepted == 0


def test_a_redirect_to_another_server_does_not_take_the_key_along() -> None:
    """As from Label Studio to a cloud's storage."""
    with label_studio_site({"/a.png": b"a picture"}) as storage:
        pages = {PICTURE: (303, {"Location": f"{storage.url}/a.png"}, b"")}
        with backend(pages, url_fetch_allowed_networks="127.0.0.2/32") as served:
            assert answered(served, PICTURE)
        assert served.site.asked == [("GET", PICTURE, f"Token {KEY}")]
        assert storage.asked == [("GET", "/a.png", None)]


@pytest.mark.parametrize("url", ["label-studio:8080", "ftp://ls", "http://", "http://user@ls", "http://ls/?a=b"])
def test_a_label_studio_that_is_no_server(url: str) -> None:
    with pytest.raises(ValidationError, match="label_studio_url"):
        Settings(label_studio_url=url)


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_file_without_a_key(tmp_path: Path, content: str | None) -> None:
    file: Any = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValidationError, match="label_studio_api_key_file"):
        Settings(label_studio_api_key_file=file)


@pytest.mark.parametrize(
    "path", ["/data/%2e%2e/api/users/", "/data/..%2fapi/users/", "/data/%5C../api/users/", "/tasks/1/..%5capi"]
)
def test_a_path_that_leads_elsewhere_is_not_asked(path: str) -> None:
    """A server decodes it, and would answer in the name of the key's user."""
    with backend({path: b"a picture"}) as served:
        assert not answered(served, path)
        assert not answered(served, f"{served.site.url}{path}")
        assert served.site.asked == []


@pytest.mark.parametrize("value", ["a key\nanother", "a\tkey", "clé", "a\0key", "a\rkey"])
def test_a_key_that_no_header_can_hold(tmp_path: Path, value: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(value.encode())
    with pytest.raises(ValidationError, match="printable ASCII") as refused:
        Settings(label_studio_api_key_file=file)
    assert value not in str(refused.value)
    with pytest.raises(ValidationError, match="printable ASCII") as refused:
        Settings(label_studio_api_key=value)
    assert value not in str(refused.value) and repr(value)[1:-1] not in str(refused.value)


def test_a_file_that_becomes_no_key_is_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The HTTP library's error holds the header."""
    file = tmp_path / "key"
    file.write_text(KEY)
    with backend({PICTURE: b"a picture"}, label_studio_api_key=None, label_studio_api_key_file=file) as served:
        for content in ("s3cret\nline", "s3cret\x01"):
            file.write_text(content)
            assert "result" not in served.predict(PICTURE)[0]
        assert served.site.asked == []
    assert "LABEL_STUDIO_API_KEY" in str([record.__dict__ for record in caplog.records])
    assert "s3cret" not in str([record.__dict__ for record in caplog.records])


def test_a_token_that_no_header_can_hold_is_not_used() -> None:
    body = json.dumps({"access": "an\naccess"}).encode()
    pages = {PICTURE: b"a picture", REFRESH_PATH: (200, {"Content-Type": "application/json"}, body)}
    with backend(pages, label_studio_api_key=token("refresh")) as served:
        assert "result" not in served.predict(PICTURE)[0]
        assert [path for _, path, _ in served.site.asked] == [REFRESH_PATH]


def test_a_refused_exchange_is_not_tried_for_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with backend({PICTURE: b"a picture"}, label_studio_api_key=token("refresh")) as served:
        entries = served.predict(*[PICTURE] * 20)
        assert not any("result" in entry for entry in entries)
        assert [path for _, path, _ in served.site.asked] == [REFRESH_PATH]
        monkeypatch.setattr(keys, "FAILURE_LASTS_S", 0.0)
        served.predict(PICTURE)
        assert len(served.site.asked) == 2


def test_an_exchange_that_hangs_ends_with_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_self: Any, _key: str) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(keys.LabelStudioKey, "_refresh", hang)
    monkeypatch.setattr(routes, "PREDICT_TIMEOUT_S", 1.0)
    with backend({PICTURE: b"a picture"}, label_studio_api_key=token("refresh")) as served:
        assert served.predict(*[PICTURE] * 40) == [{"model_version": "org/model@abc"}] * 40


def test_without_fetching_web_pictures_are_left_for_later() -> None:
    """The operator may switch it on again; an empty prediction would be kept for good."""
    with label_studio_site({"/a.png": b"a picture"}) as elsewhere:
        pages = {PICTURE: (302, {"Location": f"{elsewhere.url}/a.png"}, b""), "/data/b.png": b"a picture"}
        with backend(pages, url_fetch="off", url_fetch_allowed_networks="127.0.0.2/32") as served:
            entries = served.predict(f"{elsewhere.url}/a.png", PICTURE, "/data/b.png")
        assert ["result" in entry for entry in entries] == [False, False, True]
        assert elsewhere.asked == []


def test_without_fetching_label_studio_may_redirect_to_itself() -> None:
    pages = {PICTURE: (302, {"Location": "/data/b.png"}, b""), "/data/b.png": b"a picture"}
    with backend(pages, url_fetch="off") as served:
        assert answered(served, PICTURE)
