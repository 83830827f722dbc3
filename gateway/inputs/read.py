"""Reads a request in any of its forms: multipart, urlencoded or JSON."""

import binascii
import difflib
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from gateway.door.disconnect import client_gone
from gateway.errors import ApiError
from gateway.inputs.decoding import (
    JSON_TYPE,
    MAX_ENCODED_BYTES,
    SLICE_BYTES,
    URLENCODED,
    ContentType,
    Fields,
    decode_body,
    decode_json,
)
from gateway.schemas import SegmentForm

IMAGE_FIELDS: Final = ("image_file", "image_url")
MAX_SHOWN_NAME: Final = 40  # of a field's name that an error shows
MAX_DATA_URL_HEADER_BYTES: Final = 1000

EncodedImage = bytes | bytearray | memoryview
Form = TypeVar("Form")
FormModel = TypeVar("FormModel", bound=BaseModel)


@dataclass(slots=True)
class Received(Generic[Form]):
    """A request that was read.

    Attributes:
        form: its fields beside the image.
        image: the uploaded file, or what a data: URL holds; None if there is a URL, and after it has been taken.
        image_url: an http or https URL, unchecked; None if there is an image.
    """

    form: Form
    image: EncodedImage | None = None
    image_url: str | None = None

    def take_image(self) -> EncodedImage | None:
        """Hands the image over, so that nothing else keeps its bytes while the answer is awaited."""
        image, self.image = self.image, None
        return image


SegmentInput = Received[SegmentForm]


@dataclass(frozen=True, slots=True)
class SegmentBody:
    """A received body and its type."""

    content: ContentType
    body: bytearray


async def read_body(request: Request) -> SegmentBody:
    """Receives the body of a request; raises ApiError if its type is not supported or it does not arrive."""
    content = ContentType.parse(request.headers.get("content-type", ""))
    encoded = content.media_type == URLENCODED
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if encoded and len(body) > MAX_ENCODED_BYTES:
                message = f"an urlencoded form may have at most {MAX_ENCODED_BYTES} bytes; send multipart/form-data"
                raise ApiError("request_too_large", message)
    except ClientDisconnect as error:
        raise client_gone() from error
    return SegmentBody(content, body)


def decode_segment_input(read: SegmentBody, *, max_image_bytes: int, refuse_unknown_fields: bool) -> SegmentInput:
    """Returns the fields and the image of a request; runs in a thread.

    Args:
        read: the request's body.
        max_image_bytes: size of an encoded image.
        refuse_unknown_fields: whether an unknown field is an error.

    Raises:
        ApiError: the request cannot be served.
        RequestValidationError: a field is missing or wrong.
    """
    fields = decode_body(read.content, read.body)
    if refuse_unknown_fields:
        _refuse_unknown(fields)
    upload, url = fields.pop("image_file", None), fields.pop("image_url", None)
    received = _read_image(check_fields(SegmentForm, fields), upload, url, max_image_bytes)
    if received.image is not None:
        _check_size(len(received.image), max_image_bytes)
    return received


def decode_dialect_body(read: SegmentBody, image_at: tuple[str, ...]) -> Fields:
    """The fields of a request of another tool's protocol, null ones left out; for threads.

    Args:
        read: the request's body.
        image_at: where the text of the image is, see `decode_json`.

    Raises:
        ApiError: it is not JSON, or too much of it.
    """
    if read.content.media_type != JSON_TYPE:
        raise ApiError("unsupported_media_type", f"send {JSON_TYPE}")
    return {name: value for name, value in decode_json(read.body, image_at).items() if value is not None}


def check_fields(model: type[FormModel], fields: Fields) -> FormModel:
    """The fields as the record that describes them; raises RequestValidationError where one is missing or wrong."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def read_image_text(text: str | memoryview, max_image_bytes: int) -> EncodedImage:
    """The image in a data: URL or in bare base64; for threads.

    Raises:
        ApiError: it is neither, or larger than an image may be.
    """
    raw = memoryview(text.encode(errors="replace")) if isinstance(text, str) else text
    if bytes(raw[:5]).lower() == b"data:":
        image: EncodedImage = _read_data_url(raw, max_image_bytes)
    else:
        image = _read_base64(raw, max_image_bytes)
    _check_size(len(image), max_image_bytes)
    return image


def _refuse_unknown(fields: dict[str, Any]) -> None:
    """Raises ApiError for the first unknown field, with the known name that is most similar."""
    known = [*IMAGE_FIELDS, *SegmentForm.model_fields]
    for name in fields:
        if name not in known:
            meant = difflib.get_close_matches(name[:MAX_SHOWN_NAME], known, n=1)
            advice = f"did you mean {meant[0]}?" if meant else f"the fields are {', '.join(known)}"
            raise ApiError("invalid_request", f"{name[:MAX_SHOWN_NAME]!a} is no field of a request; {advice}")


def _read_image(form: SegmentForm, upload: Any, url: Any, max_image_bytes: int) -> SegmentInput:
    if upload is None and url is None:
        raise ApiError("missing_image", "send an image as image_file or image_url")
    if upload is not None and url is not None:
        raise ApiError("too_many_images", "send image_file or image_url, not both")
    if upload is not None:
        if not isinstance(upload, memoryview):
            raise ApiError("missing_image", "image_file must be an uploaded file")
        return SegmentInput(form, image=upload)
    if isinstance(url, str) and url[:5].lower() != "data:":
        return SegmentInput(form, image_url=url)
    if not isinstance(url, str | memoryview):
        raise ApiError("invalid_url", "image_url must be text")
    raw = memoryview(url.encode(errors="replace")) if isinstance(url, str) else url
    return SegmentInput(form, image=_read_data_url(raw, max_image_bytes))


def _read_data_url(url: memoryview, max_image_bytes: int) -> bytes | bytearray:
    header, comma, _ = bytes(url[:MAX_DATA_URL_HEADER_BYTES]).partition(b",")
    if header[:5].lower() != b"data:":
        raise ApiError("invalid_url", "a long image_url must be a data: URL")
    if not comma:
        raise ApiError("invalid_url", "the data: URL has no data")
    payload = url[len(header) + 1 :]
    if header.lower().endswith(b";base64"):
        return _read_base64(payload, max_image_bytes)
    if len(payload) > MAX_ENCODED_BYTES:
        message = f"a data: URL without base64 may have at most {MAX_ENCODED_BYTES} bytes; send base64"
        raise ApiError("request_too_large", message)
    return unquote_to_bytes(bytes(payload))


def _read_base64(payload: memoryview, max_image_bytes: int) -> bytearray:
    _check_size(len(payload) * 3 // 4 - 2, max_image_bytes)  # at least so many, whatever the padding
    image = bytearray()
    try:
        for start in range(0, len(payload), SLICE_BYTES):
            if len(image) * 4 != start * 3:
                raise ValueError("padding before the end")
            image += binascii.a2b_base64(payload[start : start + SLICE_BYTES], strict_mode=True)
    except ValueError as error:
        raise ApiError("invalid_url", "the image is not valid base64") from error
    return image


def _check_size(image_bytes: int, max_image_bytes: int) -> None:
    if image_bytes > max_image_bytes:
        raise ApiError("image_too_large", f"the image has {image_bytes} bytes; send at most {max_image_bytes}")
