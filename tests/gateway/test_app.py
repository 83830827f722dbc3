"""The gateway where it needs no Triton: what it refuses by itself, and what it says when Triton is not there."""

import base64
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from stack import REPOSITORY, free_ports

from gateway.app import create_app
from gateway.errors import MAX_SHOWN_FAULTS, STATUS_OF_CODE
from gateway.inputs import read as inputs
from gateway.inputs.decoding import ContentType
from gateway.settings import Settings

LIMIT = 50_000


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    (port,) = free_ports(1)
    settings = Settings(triton_grpc_url=f"127.0.0.1:{port}", max_image_bytes=LIMIT)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, **arguments: Any) -> Any:
    return client.post("/segment", **arguments)


def check(response: Any, status: int, code: str) -> None:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert set(body) == {"status", "detail", "code", "request_id"}
    assert body["status"] == "error"
    assert body["request_id"] == response.headers["X-Request-ID"] != ""


def test_an_image_is_needed(client: TestClient) -> None:
    check(post(client, data={"prompt": "cat"}), 400, "missing_image")


def test_one_image_is_enough(client: TestClient) -> None:
    fields = {"prompt": "cat", "image_url": "data:,x"}
    check(post(client, data=fields, files={"image_file": b"x"}), 400, "too_many_images")


def test_image_file_must_be_a_file(client: TestClient) -> None:
    check(post(client, data={"prompt": "cat", "image_file": "text"}), 400, "missing_image")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:image/png;base64,###", "data:image/png", "nonsense", 7])
def test_bad_urls(client: TestClient, url: object) -> None:
    check(post(client, json={"prompt": "cat", "image_url": url}), 400, "invalid_url")


@pytest.mark.parametrize(
    "fields",
    [{}, {"prompt": "cat", "max_new_tokens": 0}, {"prompt": "cat", "min_score": 2}, {"prompt": "cat", "overlay": "x"}],
)
def test_bad_fields_are_named_and_not_echoed(client: TestClient, fields: dict[str, Any]) -> None:
    secret = base64.b64encode(b"a picture").decode()
    response = post(client, json={**fields, "image_url": f"data:image/png;base64,{secret}"})
    check(response, 422, "invalid_request")
    assert secret not in response.text


def test_of_many_bad_fields_some_are_named(client: TestClient) -> None:
    wrong = ("max_new_tokens", "mask_format", "coordinate_space", "return_image", "overlay", "min_score")
    response = post(client, json={**dict.fromkeys(wrong, "x"), "image_url": "data:,x"})
    check(response, 422, "invalid_request")
    assert response.json()["detail"].count(": ") == MAX_SHOWN_FAULTS
    assert response.json()["detail"].endswith("; and 2 more")


@pytest.mark.parametrize(
    ("name", "advice"), [("mask_fromat", "did you mean mask_format?"), ("x" * 9000, "the fields are image_file,")]
)
def test_a_field_that_there_is_not(client: TestClient, name: str, advice: str) -> None:
    """A misspelt option passed in silence, and the answer was not what was asked for."""
    for body in ({"json": {"prompt": "cat", "image_url": "data:,x", name: "rle"}}, {"data": {name: "rle"}}):
        response = post(client, **body)
        check(response, 422, "invalid_request")
        assert advice in response.json()["detail"]
        assert len(response.text) < 500


def test_unknown_fields_can_be_passed_over() -> None:
    settings = Settings(triton_grpc_url="127.0.0.1:1", unknown_fields="ignore")
    with TestClient(create_app(settings), raise_server_exceptions=False) as lenient:
        check(post(lenient, data={"prompt": "cat", "more": "x"}, files={"image_file": b"x"}), 503, "unavailable")


def test_a_file_that_was_not_chosen_is_none(client: TestClient) -> None:
    """As browsers send an empty file field, beside a URL or alone."""
    empty = {"image_file": ("", b"", "application/octet-stream")}
    check(post(client, data={"prompt": "cat", "image_url": "data:,x"}, files=empty), 503, "unavailable")
    check(post(client, data={"prompt": "cat"}, files={"image_file": ("a.jpg", b"")}), 400, "missing_image")


def test_the_version(client: TestClient) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert client.get("/version").json() == {"version": project["version"], "triton": None}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"[" * 100_000, b'{"prompt": "\xff"}'])
def test_bad_json(client: TestClient, body: bytes) -> None:
    check(post(client, content=body, headers={"content-type": "application/json"}), 400, "invalid_body")


def test_a_lone_surrogate_in_the_prompt(client: TestClient) -> None:
    response = post(
        client, content=b'{"prompt": "\\ud800", "image_url": "data:,x"}', headers={"content-type": "application/json"}
    )
    check(response, 422, "invalid_request")


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/octet-stream"])
def test_other_media_types(client: TestClient, content_type: str) -> None:
    check(post(client, content=b"x", headers={"content-type": content_type}), 415, "unsupported_media_type")


def test_a_broken_multipart_body(client: TestClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    check(post(client, content=b"--b\r\nno header\r\n\r\n", headers=headers), 400, "invalid_body")
    check(post(client, content=b"--b\r\nspace in name: x\r\n\r\n", headers=headers), 400, "invalid_body")
    check(post(client, content=b"x", headers={"content-type": "multipart/form-data"}), 400, "invalid_body")


def test_too_many_files(client: TestClient) -> None:
    files = [("image_file", b"x"), ("b", b"x"), ("c", b"x")]
    check(post(client, data={"prompt": "cat"}, files=files), 400, "invalid_body")


def test_an_image_that_is_too_large(client: TestClient) -> None:
    check(post(client, data={"prompt": "cat"}, files={"image_file": b"x" * (LIMIT + 1)}), 413, "image_too_large")


@pytest.mark.parametrize(("field", "longest"), [("prompt", 4096), ("model_id", 256)])
def test_texts_have_a_length(client: TestClient, field: str, longest: int) -> None:
    """What is let in gets as far as Triton, which is not there."""
    for length, status, code in ((longest, 503, "unavailable"), (longest + 1, 422, "invalid_request")):
        fields = {"prompt": "cat", "image_url": "data:,x", field: "a" * length}
        check(post(client, json=fields), status, code)


def test_bodies_are_decoded_off_the_event_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes its time holds nobody else up: /healthz answers while it is still at it."""
    seen: list[int] = []
    real = inputs.decode_body

    def decode_body(content: ContentType, body: bytearray) -> dict[str, Any]:
        seen.append(client.get("/healthz").status_code)
        return real(content, body)

    monkeypatch.setattr(inputs, "decode_body", decode_body)
    check(post(client, json={"prompt": "cat"}), 400, "missing_image")
    assert seen == [200]


def test_data_urls_are_bounded(client: TestClient) -> None:
    """Base64 is measured before it is decoded; percent signs, which are slow to decode, have a bound of their own."""
    large = "data:image/png;base64," + "A" * (2 * LIMIT)
    check(post(client, json={"prompt": "cat", "image_url": large}), 413, "image_too_large")
    check(post(client, data={"prompt": "cat"}, files={"image_url": (None, large)}), 413, "image_too_large")
    with TestClient(create_app(Settings(triton_grpc_url="127.0.0.1:1"))) as roomy:
        escaped = "data:," + "%00" * 400_000
        check(post(roomy, json={"prompt": "cat", "image_url": escaped}), 413, "request_too_large")
        check(post(roomy, data={"prompt": "cat", "image_url": escaped}), 413, "request_too_large")
        check(post(roomy, json={"prompt": "cat", "image_url": "http://a/" + "b" * 200_000}), 400, "invalid_url")


@pytest.mark.parametrize("payload", ["QQ==QUJD", "QQ", "Q===", "=", "QU I="])
def test_base64_is_strict(client: TestClient, payload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where slices meet."""
    monkeypatch.setattr(inputs, "SLICE_BYTES", 4)
    check(post(client, json={"prompt": "cat", "image_url": f"data:;base64,{payload}"}), 400, "invalid_url")


def test_a_body_that_is_too_large_is_not_read_to_its_end(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 100_000
            yield b"x" * 100_000

    headers = {"content-type": "application/json"}
    check(post(client, content=endless(), headers=headers), 413, "request_too_large")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/segment", 405)])
def test_other_paths_and_methods(client: TestClient, method: str, path: str, status: int) -> None:
    check(client.request(method, path), status, {404: "not_found", 405: "method_not_allowed"}[status])


def test_without_triton_it_lives_and_says_so(client: TestClient) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    response = post(client, data={"prompt": "cat"}, files={"image_file": b"x"})
    check(response, 503, "unavailable")
    assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("offered", "taken"), [("abc-1.2_Z", True), ("a" * 128, True), ("a" * 129, False), ("a b", False)]
)
def test_request_ids(client: TestClient, offered: str, taken: bool) -> None:
    returned = client.get("/healthz", headers={"X-Request-ID": offered}).headers["X-Request-ID"]
    assert (returned == offered) == taken
    assert returned


def test_documentation_can_be_switched_off() -> None:
    with TestClient(create_app(Settings(docs="off"))) as client:
        assert [client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3


def test_every_code_of_the_engine_has_a_status() -> None:
    engine_codes = {
        "invalid_image invalid_prompt invalid_argument image_too_large model_not_allowed model_gated model_not_found",
        "model_failed hub_failed loading overloaded deadline cancelled internal",
    }
    assert {code for line in engine_codes for code in line.split()} <= set(STATUS_OF_CODE)
