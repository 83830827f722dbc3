"""Reads a request in any of its forms: multipart, urlencoded or JSON."""

import binascii
import difflib
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from gateway.door.disconnect import client_gone
from gateway.errors import ApiError
from gateway.inputs.decoding import MAX_ENCODED_BYTES, SLICE_BYTES, URLENCODED, ContentType, decode_body
from gateway.schemas import SegmentForm

IMAGE_FIELDS: Final = ("image_file", "image_url")
MAX_SHOWN_NAME: Final = 40  # of a field's name that an error shows
MAX_DATA_URL_HEADER_BYTES: Final = 1000

EncodedImage = bytes | bytearray | memoryview


@dataclass(slots=True)
class SegmentInput:
    """A request as it was read.

    Attributes:
        form: its fields beside the image.
        image: the uploaded file, or what a data: URL holds; None where there is a URL, and once it has been taken.
        image_url: an http or https URL, unchecked; None where there is an image.
    """

    form: SegmentForm
    image: EncodedImage | None = None
    image_url: str | None = None

    def take_image(self) -> EncodedImage | None:
        """Hands the image over, so that nothing else keeps its bytes while the answer is awaited."""
        image, self.image = self.image, None
        return image


@dataclass(frozen=True, slots=True)
class SegmentBody:
    """A request's body that has come, and what it is."""

    content: ContentType
    body: bytearray


async def read_body(request: Request) -> SegmentBody:
    """The body of a request; raises ApiError where it is not served or does not come."""
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
    """The fields and the image of a request; for threads.

    Args:
        read: the request's body.
        max_image_bytes: size of an encoded image.
        refuse_unknown_fields: whether a field that there is not is an error.

    Raises:
        ApiError: the request cannot be served.
        RequestValidationError: a field is missing or wrong.
    """
    fields = decode_body(read.content, read.body)
    if refuse_unknown_fields:
        _refuse_unknown(fields)
    upload, url = fields.pop("image_file", None), fields.pop("image_url", None)
    try:
        form = SegmentForm.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    received = _read_image(form, upload, url, max_image_bytes)
    if received.image is not None:
        _check_size(len(received.image), max_image_bytes)
    return received


def _refuse_unknown(fields: dict[str, Any]) -> None:
    """Raises ApiError for the first field that there is not, with the name that was probably meant."""
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
    return SegmentInput(form, image=read_data_url(raw, max_image_bytes))


def read_data_url(url: memoryview, max_image_bytes: int) -> bytes | bytearray:
    """What a data: URL holds; raises ApiError if it cannot be read, or holds more than an image may."""
    header, comma, _ = bytes(url[:MAX_DATA_URL_HEADER_BYTES]).partition(b",")
    if header[:5].lower() != b"data:":
        raise ApiError("invalid_url", "a long image_url must be a data: URL")
    if not comma:
        raise ApiError("invalid_url", "the data: URL has no data")
    payload = url[len(header) + 1 :]
    if header.lower().endswith(b";base64"):
        _check_size(len(payload) * 3 // 4 - 2, max_image_bytes)  # at least so many, whatever the padding
        return _decode_base64(payload)
    if len(payload) > MAX_ENCODED_BYTES:
        message = f"a data: URL without base64 may have at most {MAX_ENCODED_BYTES} bytes; send base64"
        raise ApiError("request_too_large", message)
    return unquote_to_bytes(bytes(payload))


def _decode_base64(payload: memoryview) -> bytearray:
    image = bytearray()
    try:
        for start in range(0, len(payload), SLICE_BYTES):
            if len(image) * 4 != start * 3:
                raise ValueError("padding before the end")
            image += binascii.a2b_base64(payload[start : start + SLICE_BYTES], strict_mode=True)
    except ValueError as error:
        raise ApiError("invalid_url", "the data: URL is not valid base64") from error
    return image


def _check_size(image_bytes: int, max_image_bytes: int) -> None:
    if image_bytes > max_image_bytes:
        raise ApiError("image_too_large", f"the image has {image_bytes} bytes; send at most {max_image_bytes}")
