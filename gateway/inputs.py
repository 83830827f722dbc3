"""Reads a request in any of its forms: multipart, urlencoded or JSON."""

import base64
import binascii
import difflib
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.disconnect import client_gone
from gateway.errors import ApiError
from gateway.schemas import SegmentForm

FORM_TYPES: Final = ("multipart/form-data", "application/x-www-form-urlencoded")
JSON_TYPE: Final = "application/json"
IMAGE_FIELDS: Final = ("image_file", "image_url")
MAX_SHOWN_NAME: Final = 40  # of a field's name that an error shows
MAX_FIELDS: Final = 32
MAX_FILES: Final = 2  # one is right; the second gets a message instead of the parser's


@dataclass(frozen=True, slots=True)
class SegmentInput:
    """A request as it was read.

    Attributes:
        form: its fields beside the image.
        image: the uploaded file, or what a data: URL holds; None where there is a URL.
        image_url: an http or https URL, unchecked; None where there is an image.
    """

    form: SegmentForm
    image: bytes | None = None
    image_url: str | None = None


async def read_segment_input(request: Request, *, max_image_bytes: int, refuse_unknown_fields: bool) -> SegmentInput:
    """The fields and the image of a request; raises ApiError or RequestValidationError for what cannot be served."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media_type in FORM_TYPES:
            fields = await _read_form(request, max_text_bytes=2 * max_image_bytes)
        elif media_type == JSON_TYPE:
            fields = await _read_json(request)
        else:
            raise ApiError("unsupported_media_type", f"send {', '.join(FORM_TYPES)} or {JSON_TYPE}")
    except ClientDisconnect as error:
        raise client_gone() from error
    if refuse_unknown_fields:
        _refuse_unknown(fields)
    upload, url = fields.pop("image_file", None), fields.pop("image_url", None)
    try:
        form = SegmentForm.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    received = _read_image(form, upload, url)
    if received.image is not None and len(received.image) > max_image_bytes:
        message = f"the image has {len(received.image)} bytes; send at most {max_image_bytes}"
        raise ApiError("image_too_large", message)
    return received


async def _read_form(request: Request, *, max_text_bytes: int) -> dict[str, Any]:
    """The fields of a form; files as bytes. Empty ones are left out: browsers send a file that was not chosen so."""
    try:
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=max_text_bytes) as form:
            fields = {
                name: await value.read() if isinstance(value, UploadFile) else value for name, value in form.items()
            }
    except HTTPException as error:  # what Starlette makes of its parser's complaints
        raise ApiError("invalid_body", f"the form cannot be read: {error.detail}") from error
    return {name: value for name, value in fields.items() if value not in ("", b"")}


async def _read_json(request: Request) -> dict[str, Any]:
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ApiError("invalid_body", "the body is not valid JSON") from error
    if not isinstance(fields, dict):
        raise ApiError("invalid_body", "the body must be a JSON object")
    return {name: value for name, value in fields.items() if value is not None}


def _refuse_unknown(fields: dict[str, Any]) -> None:
    """Raises ApiError for the first field that there is not, with the name that was probably meant."""
    known = [*IMAGE_FIELDS, *SegmentForm.model_fields]
    for name in fields:
        if name not in known:
            meant = difflib.get_close_matches(name[:MAX_SHOWN_NAME], known, n=1)
            advice = f"did you mean {meant[0]}?" if meant else f"the fields are {', '.join(known)}"
            raise ApiError("invalid_request", f"{name[:MAX_SHOWN_NAME]!a} is no field of a request; {advice}")


def _read_image(form: SegmentForm, upload: Any, url: Any) -> SegmentInput:
    if upload is None and url is None:
        raise ApiError("missing_image", "send an image as image_file or image_url")
    if upload is not None and url is not None:
        raise ApiError("too_many_images", "send image_file or image_url, not both")
    if upload is not None:
        if not isinstance(upload, bytes):
            raise ApiError("missing_image", "image_file must be an uploaded file")
        return SegmentInput(form, image=upload)
    if not isinstance(url, str):
        raise ApiError("invalid_url", "image_url must be text")
    if url[:5].lower() == "data:":
        return SegmentInput(form, image=_read_data_url(url))
    return SegmentInput(form, image_url=url)


def _read_data_url(url: str) -> bytes:
    header, comma, payload = url.partition(",")
    if not comma:
        raise ApiError("invalid_url", "the data: URL has no data")
    if not header.lower().endswith(";base64"):
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError("invalid_url", "the data: URL is not valid base64") from error
