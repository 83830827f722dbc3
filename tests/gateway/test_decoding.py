"""Bodies as clients write them, and bodies that want to be expensive."""

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.inputs import decoding
from gateway.inputs.decoding import MAX_FIELDS_BYTES, ContentType, decode_body

BOUNDARY = "b"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
URLENCODED = "application/x-www-form-urlencoded"
JSON = "application/json"

Encoder = Callable[[dict[str, str]], str]


def decode(content_type: str, body: bytes) -> dict[str, Any]:
    fields = decode_body(ContentType.parse(content_type), bytearray(body))
    return {name: bytes(value) if isinstance(value, memoryview) else value for name, value in fields.items()}


def part(head: str, content: bytes) -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def refused(content_type: str, body: bytes) -> str:
    with pytest.raises(ApiError) as error:
        decode(content_type, body)
    return error.value.code


@pytest.mark.parametrize("size", [3, 36_000, 37_000, 74_000, 75_000, 76_000, 2_000_000])
@pytest.mark.parametrize(
    "encode",
    [
        json.dumps,
        lambda fields: json.dumps(fields, indent=2, ensure_ascii=False),
        lambda fields: json.dumps(fields).replace("/", "\\/"),
        lambda fields: json.dumps(fields).replace("+", "\\u002B").replace("=", "\\u003d"),
        lambda fields: json.dumps(dict(reversed(fields.items()))),
    ],
    ids=["plain", "spaced", "slashes", "html-safe", "image-first"],
)
def test_json_images_of_every_size(size: int, encode: Encoder) -> None:
    """Short ones are read as any field; long ones are left where they are, whatever characters were escaped."""
    image = base64.b64encode(random.Random(size).randbytes(size)).decode()
    fields = {"prompt": 'a "red" é \\ bird', "image_url": f"data:image/png;base64,{image}"}
    found = decode(JSON, encode(fields).encode())
    if isinstance(found["image_url"], bytes):
        found["image_url"] = found["image_url"].decode()
    assert found == fields


def test_json_escapes_across_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SLICE_BYTES", 64)
    text = "+/=" * 40_000
    body = json.dumps({"image_url": text}).replace("/", "\\/").replace("+", "\\u002b")
    assert decode(JSON, body.encode()) == {"image_url": text.encode()}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'"' + b'\\"' * 1_000_000, "request_too_large"),
        (b'{"image_url": "' + b"\\u0041" * 100_000 + b'"}', "invalid_body"),
        (b'{"image_url": "' + b"x" * 1_000_000, "request_too_large"),
        (b'{"prompt": "' + b"x" * 1_000_000 + b'"}', "request_too_large"),
        (b'{"prompt": "' + b"x" * 1_000_000 + b'", "image_url": "\\u0000"}', "request_too_large"),
        (b"[" * 1_000_000, "request_too_large"),
        (b'{"a": [' + b"[]," * 1_000_000 + b"[]]}", "request_too_large"),
        (b"{" + b'"a": 1,' * 1_000_000 + b'"a": 1}', "request_too_large"),
        (b" " * 1_000_000 + b"{}", "request_too_large"),
        (b"[" * 50_000, "invalid_body"),
        (b'{"max_new_tokens": ' + b"9" * 50_000 + b"}", "invalid_body"),
    ],
    ids=lambda value: value[:12].decode() if isinstance(value, bytes) else value,
)
def test_json_is_bounded_beside_its_image(body: bytes, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expensive to read is never given to the reader in any size."""
    read: list[int] = []
    real = json.loads
    monkeypatch.setattr(decoding.json, "loads", lambda text: read.append(len(text)) or real(text))  # type: ignore[attr-defined]
    assert refused(JSON, body) == code
    assert max(read, default=0) <= 2 * MAX_FIELDS_BYTES


@pytest.mark.parametrize("at", [("image",), ("image", "value"), ("a", "b", "c")])
def test_a_dialects_image_is_a_view_wherever_it_is(at: tuple[str, ...]) -> None:
    image = "A" * 400_000
    fields: Any = image
    for name in reversed(at):
        fields = {name: fields, "other": 1}
    body = bytearray(json.dumps(fields).encode())
    found: Any = decoding.decode_json(body, at)
    for name in at:
        assert found["other"] == 1
        found = found[name]
    assert isinstance(found, memoryview) and found.obj is body and len(found) == len(image)


@pytest.mark.parametrize("fields", [{"image": {"other": "A" * 400_000}}, {"image": ["A" * 400_000]}, ["A" * 400_000]])
def test_a_dialects_long_text_may_be_its_image_only(fields: Any) -> None:
    with pytest.raises(ApiError) as error:
        decoding.decode_json(bytearray(json.dumps(fields).encode()), ("image", "value"))
    assert error.value.code in ("request_too_large", "invalid_body")


def test_an_uploaded_file_is_not_copied() -> None:
    body = bytearray(part('name="prompt"', b"cat") + part('name="image_file"; filename="a.jpg"', b"x" * 10_000) + END)
    fields = decode_body(ContentType.parse(MULTIPART), body)
    assert isinstance(fields["image_file"], memoryview) and fields["image_file"].obj is body
    assert fields["prompt"] == "cat"


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\r\n--", b"\r\n--b", b"x\r\n--bx\r\n--", b"--b--" * 9, b"\r" * 99])
def test_files_with_pieces_of_boundaries(content: bytes) -> None:
    content = content.replace(b"\r\n--b", b"\r\n--c") + b"\r\n--a"
    assert decode(MULTIPART, part('name="image_file"; filename="a"', content) + END) == {"image_file": content}


def test_empty_fields_are_left_out() -> None:
    """So are files that were not chosen: browsers send them without a name."""
    body = part('name="model_id"', b"") + part('name="image_file"; filename=""', b"") + part('name="prompt"', b"cat")
    assert decode(MULTIPART, body + END) == {"prompt": "cat"}
    assert decode(URLENCODED, b"prompt=cat&model_id=") == {"prompt": "cat"}
    assert decode(JSON, b'{"prompt": "cat", "model_id": null}') == {"prompt": "cat"}
    assert decode(JSON, b'{"prompt": "cat", "image_url": ""}') == {"prompt": "cat"}


@pytest.mark.parametrize(
    "body",
    [
        part('name="prompt"', b"cat"),
        part('filename="a"', b"cat") + END,
        part('name="prompt"', b"\xff") + END,
        b"x" + END,
        part('name="a"; filename="a"', b"x") * 3 + END,
        part('name="a"', b"x") * 33 + END,
        f"--{BOUNDARY}\r\n".encode() + b"A: b\r\n" * 1000 + b"\r\n\r\n" + END,
    ],
)
def test_forms_that_cannot_be_read(body: bytes) -> None:
    assert refused(MULTIPART, body) == "invalid_body"


def test_too_many_fields_are_no_fault_of_their_encoding() -> None:
    with pytest.raises(ApiError, match="more than 32 fields"):
        decode(URLENCODED, b"a=b&" * 40)


def test_forms_are_bounded_beside_their_image() -> None:
    assert refused(MULTIPART, part('name="prompt"', b"x" * (MAX_FIELDS_BYTES + 1)) + END) == "request_too_large"
    assert refused(MULTIPART, part('name="a"', b"x" * 40_000) * 3 + END) == "request_too_large"
    assert refused(URLENCODED, b"prompt=" + b"x" * (MAX_FIELDS_BYTES + 1)) == "request_too_large"
    assert refused(URLENCODED, b"a=b&" * 40) == "invalid_body"
    assert refused(URLENCODED, b"prompt=%ff") == "invalid_body"
    assert refused(URLENCODED, "prompt=schön".encode()) == "invalid_body"


@pytest.mark.parametrize("charset", ["", "utf-8", "UTF8", '"utf-8"', "us-ascii", "iso-8859-1"])
@pytest.mark.parametrize("media_type", [MULTIPART, URLENCODED, JSON])
def test_harmless_charsets(charset: str, media_type: str) -> None:
    ContentType.parse(f"{media_type}; charset={charset}")


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "utf-16", "utf-7", "base64", "rot13", "nonsense"])
@pytest.mark.parametrize("media_type", [MULTIPART, URLENCODED, JSON])
def test_other_charsets_are_refused(charset: str, media_type: str) -> None:
    with pytest.raises(ApiError) as error:
        ContentType.parse(f"{media_type}; charset={charset}")
    assert error.value.status == 415


def test_charsets_of_parts() -> None:
    def with_charset(charset: str, content: bytes) -> bytes:
        return part(f'name="prompt"\r\nContent-Type: text/plain; charset={charset}', content) + END

    assert decode(MULTIPART, with_charset("utf-8", "schön".encode())) == {"prompt": "schön"}
    assert decode(MULTIPART, with_charset("iso-8859-1", "schön".encode("latin-1"))) == {"prompt": "schön"}
    assert refused(MULTIPART, with_charset("punycode", b"x")) == "unsupported_media_type"
    assert decode(f"{MULTIPART}; charset=latin-1", part('name="prompt"', b"sch\xf6n") + END) == {"prompt": "schön"}
    assert decode(f"{URLENCODED}; charset=latin-1", b"prompt=sch%f6n") == {"prompt": "schön"}
