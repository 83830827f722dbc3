"""Decodes a body into fields: multipart, urlencoded or JSON.

Everything here runs in threads, because a body may be large. The parts that cost more than copying (text, nested JSON,
percent signs) are limited. An image is never copied: its field is a view of the body.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.errors import ApiError

MULTIPART: Final = "multipart/form-data"
URLENCODED: Final = "application/x-www-form-urlencoded"
JSON_TYPE: Final = "application/json"
MEDIA_TYPES: Final = (MULTIPART, URLENCODED, JSON_TYPE)

MAX_FIELDS_BYTES: Final = 100_000  # of everything in a body beside its image
LONG_BYTES: Final = MAX_FIELDS_BYTES // 2  # of an image_url that is left where it is
MAX_ENCODED_BYTES: Final = 1_000_000  # of what is percent-encoded, which is slow to decode
SLICE_BYTES: Final = 1 << 20  # of what is worked on in one go, during which other threads wait; a multiple of 4
MAX_FIELDS: Final = 32
MAX_FILES: Final = 2  # one is right; the second gets a message instead of the parser's

# ASCII is UTF-8. Other encodings have decoders whose cost nobody bounds, and JSON and browsers do without them.
CODECS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("", "utf-8", "utf8", "us-ascii", "ascii"), "utf-8"),
    **dict.fromkeys(("iso-8859-1", "latin-1", "latin1"), "latin-1"),
}

_JSON_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_JSON_ESCAPES: Final = {  # those that encoders write for characters of base64
    rb"\/": b"/",
    rb"\u002b": b"+",
    rb"\u002B": b"+",
    rb"\u002f": b"/",
    rb"\u002F": b"/",
    rb"\u003d": b"=",
    rb"\u003D": b"=",
}

_LONGEST_ESCAPE: Final = max(map(len, _JSON_ESCAPES))

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ContentType:
    """The type of a body.

    Attributes:
        media_type: one of MEDIA_TYPES.
        codec: encoding of its text.
        boundary: of a multipart body.
    """

    media_type: str
    codec: str
    boundary: bytes

    @classmethod
    def parse(cls, header: str) -> "ContentType":
        """Reads it from a request's header; raises ApiError for an unsupported type."""
        media_type, options = parse_options_header(header)
        if media_type.decode("latin-1") not in MEDIA_TYPES:
            raise ApiError("unsupported_media_type", f"send {', '.join(MEDIA_TYPES[:-1])} or {MEDIA_TYPES[-1]}")
        return cls(media_type.decode("latin-1"), _codec(options, "utf-8"), options.get(b"boundary", b""))


def decode_body(content: ContentType, body: bytearray) -> Fields:
    """The fields of a body, empty ones left out; text as str, files and a long image_url as views of the body.

    Raises:
        ApiError: the body cannot be read, or exceeds a limit.
    """
    match content.media_type:
        case "multipart/form-data":
            return _decode_multipart(content, body)
        case "application/x-www-form-urlencoded":
            return _decode_urlencoded(content, body)
        case _:
            return _decode_segment_json(body)


def _codec(options: Mapping[bytes, bytes], default: str) -> str:
    charset = options.get(b"charset", default.encode()).decode("latin-1").lower()
    if charset not in CODECS:
        raise ApiError("unsupported_media_type", "the charset is not supported; send UTF-8")
    return CODECS[charset]


def _decode_text(raw: bytes, codec: str) -> str:
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as error:
        raise ApiError("invalid_body", "the form cannot be read: a field is not UTF-8 text") from error


def _too_many_bytes() -> ApiError:
    message = f"the fields beside the image are too large; send at most {MAX_FIELDS_BYTES} bytes of them"
    return ApiError("request_too_large", message)


def _decode_urlencoded(content: ContentType, body: bytearray) -> Fields:
    try:
        text = body.decode("ascii")
        if text.count("&") >= MAX_FIELDS:
            raise ApiError("invalid_body", f"the form has more than {MAX_FIELDS} fields")
        pairs = parse_qsl(text, encoding=content.codec, errors="strict")
    except ValueError as error:
        raise ApiError("invalid_body", "the form cannot be read: it is not percent-encoded UTF-8") from error
    fields = dict(pairs)
    if sum(len(value) for name, value in fields.items() if name != "image_url") > MAX_FIELDS_BYTES:
        raise _too_many_bytes()
    return fields


def decode_json(body: bytearray, image_at: tuple[str, ...]) -> Fields:
    """A JSON object; where the body is large, its image is a view of the body.

    Args:
        body: the request's.
        image_at: where the text of the image is: the name in the object, or names in nested objects, outermost first.

    Raises:
        ApiError: it cannot be read, or it is too much.
    """
    if len(body) <= MAX_FIELDS_BYTES:
        return _load_object(body)
    body, placeholder, image = _take_long_string(body)
    fields = _load_object(body)
    holder: Any = fields
    for name in image_at[:-1]:
        holder = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or holder.get(image_at[-1]) != placeholder:
        raise _too_many_bytes()
    holder[image_at[-1]] = image
    return fields


def _decode_segment_json(body: bytearray) -> Fields:
    fields = decode_json(body, ("image_url",))
    if fields.get("image_url") == "":
        del fields["image_url"]
    return {name: value for name, value in fields.items() if value is not None}


def _load_object(body: bytearray) -> Fields:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError("invalid_body", "the body is not valid JSON") from error
    if not isinstance(fields, dict):
        raise ApiError("invalid_body", "the body must be a JSON object")
    return fields


def _take_long_string(body: bytearray) -> tuple[bytearray, str, memoryview]:
    """Returns the body with a placeholder for its one long string, the placeholder, and that string, in linear time."""
    start = body.find(b'"')
    while 0 <= start <= MAX_FIELDS_BYTES:
        short = _JSON_STRING.match(body, start, start + LONG_BYTES)
        if short is None:
            end = body.find(b'"', start + 1)
            if len(body) - (end - start) > MAX_FIELDS_BYTES:  # also where there is no end
                break
            placeholder = uuid.uuid4().hex  # nothing else in the body can be the same
            rest = body[:start] + json.dumps(placeholder).encode() + body[end + 1 :]
            return rest, placeholder, _without_escapes(body, start + 1, end)
        start = body.find(b'"', short.end())
    raise _too_many_bytes()


def _without_escapes(body: bytearray, start: int, end: int) -> memoryview:
    if body.find(b"\\", start, end) < 0:
        return memoryview(body)[start:end]
    text = bytearray()
    while start < end:
        stop = min(start + SLICE_BYTES, end)
        if stop < end and (escape := body.rfind(b"\\", stop - _LONGEST_ESCAPE, stop)) > start:
            stop = escape  # not in the middle of one
        text += _unescape(body[start:stop])
        start = stop
    return memoryview(text)


def _unescape(text: bytearray) -> bytearray:
    for escape, character in _JSON_ESCAPES.items():
        text = text.replace(escape, character)
    if b"\\" in text:
        raise ApiError("invalid_body", "a long image text cannot have JSON escapes; send base64 without them")
    return text


def _decode_multipart(content: ContentType, body: bytearray) -> Fields:
    if not content.boundary:
        raise ApiError("invalid_body", "the form cannot be read: its Content-Type has no boundary")
    form = _Multipart(content.codec)
    try:
        # One write for the whole body, so that a part comes in one piece; the parser only searches and slices it.
        MultipartParser(content.boundary, form.callbacks()).write(cast(bytes, body))
    except FormParserError as error:
        raise ApiError("invalid_body", "the form cannot be read: it is not multipart") from error
    if not form.ended:
        raise ApiError("invalid_body", "the form cannot be read: it ends before its last boundary")
    return form.fields


@dataclass
class _Multipart:
    """Collects what the parser finds."""

    codec: str
    fields: Fields = field(default_factory=dict)
    ended: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _header: tuple[bytes, bytes] = (b"", b"")
    _pieces: list[memoryview] = field(default_factory=list)
    _text_bytes: int = 0
    _counts: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})

    def callbacks(self) -> Any:
        """Returns the functions that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_header(bytes(data[start:end]), b""),
            "on_header_value": lambda data, start, end: self._add_header(b"", bytes(data[start:end])),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._pieces.append(memoryview(data)[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers, self._pieces = {}, []

    def _add_header(self, name: bytes, value: bytes) -> None:
        self._header = (self._header[0] + name, self._header[1] + value)

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = (b"", b"")

    def _finish(self) -> None:
        self.ended = True

    def _end(self) -> None:
        _, disposition = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in disposition:
            raise ApiError("invalid_body", "the form cannot be read: a part has no name")
        name = _decode_text(disposition[b"name"], self.codec)
        is_file = b"filename" in disposition
        self._counts[is_file] += 1
        if self._counts[True] > MAX_FILES or self._counts[False] > MAX_FIELDS:
            raise ApiError("invalid_body", f"the form has more than {MAX_FILES} files or {MAX_FIELDS} other fields")
        content = self._pieces[0] if len(self._pieces) == 1 else memoryview(b"".join(self._pieces))
        if is_file:
            if content:  # a browser sends an empty file where none was chosen
                self.fields[name] = content
        elif name == "image_url" and len(content) > LONG_BYTES:
            self.fields[name] = content
        else:
            self._add_text(name, content)

    def _add_text(self, name: str, content: memoryview) -> None:
        self._text_bytes += len(content)
        if self._text_bytes > MAX_FIELDS_BYTES:
            raise _too_many_bytes()
        _, options = parse_options_header(self._headers.get(b"content-type"))
        if text := _decode_text(bytes(content), _codec(options, self.codec)):
            self.fields[name] = text
