"""Additions to the OpenAPI schema: request bodies in three media types, examples of requests and errors."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from gateway.answers.events import EVENT_STREAM, encode_event
from gateway.errors import STATUS_OF_CODE
from gateway.fetching.errors import UNREACHABLE
from gateway.inputs.decoding import JSON_TYPE, MULTIPART, URLENCODED
from gateway.schemas import Error, SegmentForm

IMAGE_TYPES: Final = "image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff, image/avif, image/heic"

# A blue square on white, 32x32: short enough to display, and a valid image that can be sent from /docs.
EXAMPLE_IMAGE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX///8mXNYQvIyVAAAAF0lEQV"
    "R42mNgIBb8/8/AxMDAQCWCWAAA9BUCHTVYa/EAAAAASUVORK5CYII="
)

REQUEST_EXAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "boxes and masks": {"prompt": "segment blue square", "image_url": EXAMPLE_IMAGE},
    "several targets": {"prompt": "segment blue square ; red circle", "image_url": EXAMPLE_IMAGE},
    "boxes only": {"prompt": "detect blue square", "image_url": EXAMPLE_IMAGE, "return_image": False},
    "COCO run lengths in the original's size": {
        "prompt": "segment blue square",
        "image_url": EXAMPLE_IMAGE,
        "mask_format": "rle",
        "coordinate_space": "original",
        "return_image": False,
    },
    "polygons in shares of width and height, and an overlay": {
        "prompt": "segment blue square",
        "image_url": EXAMPLE_IMAGE,
        "mask_format": "polygon",
        "coordinate_space": "normalized",
        "overlay": True,
    },
    "an image on the web": {"prompt": "segment left wheel", "image_url": "https://example.org/car.jpg"},
}

ERROR_EXAMPLES: Final[Mapping[str, str]] = {
    "missing_image": "send an image as image_file or image_url",
    "too_many_images": "send image_file or image_url, not both",
    "invalid_image": "the image cannot be read; send JPEG, PNG, WebP or another common format",
    "invalid_url": "the data: URL is not valid base64",
    "fetch_failed": UNREACHABLE,
    "unauthorized": "send a valid key in the header Authorization: Bearer <key>, or X-API-Key",
    "model_not_allowed": "this model may not be asked for",
    "model_not_found": "there is no such model",
    "request_timeout": "the request took too long to arrive",
    "image_too_large": "the image has 31000000 bytes; send at most 20000000",
    "unsupported_media_type": "send multipart/form-data, application/x-www-form-urlencoded or application/json",
    "invalid_request": "max_new_tokens: Input should be greater than or equal to 1",
    "invalid_prompt": "the prompt is empty; say what to look for",
    "model_failed": "the model failed on this request",
    "overloaded": "the gateway serves as many requests as it can; try again later",
    "loading": "the model is being loaded; try again later",
    "lookup_failed": "the name server does not answer; try again later",
    "deadline": "the request's time was up before it was answered",
}

EVENT_EXAMPLES: Final[Mapping[str, str]] = {
    "accepted": '{"request_id":"5f0c2d6e","targets":["blue square","red circle"]}',
    "object": '{"target":0,"object":{"mask":"iVBORw0KGgo...","coordinates":[56,56,168,168],"label":"blue square",'
    '"score":0.93,"mask_score":0.88,"target":0}}',
    "done": '{"image":null,"targets":[{"target":"blue square","finish_reason":"eos"},{"target":"red circle",'
    '"finish_reason":"eos"}],"text":"<loc0256>...","model_id":"paligemma2-demo-224","image_size":{"width":32,'
    '"height":32},"timings_ms":{"inference":208.5},"request_id":"5f0c2d6e","overlay":null}',
}


def request_body() -> dict[str, Any]:
    """The request body's schema; written by hand because FastAPI cannot declare one body in three media types."""
    fields = SegmentForm.model_json_schema()
    url = {"type": "string", "description": "An http:, https: or data: URL of the image."}
    upload = {"type": "string", "format": "binary", "description": "The image, any common format."}
    by_url, by_file = ({"required": [*fields["required"], name]} for name in ("image_url", "image_file"))

    def body(images: dict[str, Any], needed: dict[str, Any]) -> dict[str, Any]:
        properties = {**images, **fields["properties"]}
        return {"schema": {**fields, "properties": properties, "additionalProperties": False, **needed}}

    multipart = {
        **body({"image_file": upload, "image_url": url}, {"oneOf": [by_file, by_url]}),
        "encoding": {"image_file": {"contentType": IMAGE_TYPES}},
    }
    examples = {name: {"summary": name, "value": value} for name, value in REQUEST_EXAMPLES.items()}
    urlencoded = {**body({"image_url": url}, by_url), "examples": examples}
    json_body = {**body({"image_url": url}, by_url), "examples": examples}
    content = {MULTIPART: multipart, URLENCODED: urlencoded, JSON_TYPE: json_body}
    return {"requestBody": {"required": True, "content": content}}


def json_body(model: type[BaseModel], image: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """The request body of another tool's protocol; its image, which is read apart from the fields, is `image`."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    fields = _inlined(schema, definitions)
    fields["properties"] = {"image": image, **fields["properties"]}
    fields["required"] = ["image", *fields.get("required", ())]
    return {"requestBody": {"required": True, "content": {JSON_TYPE: {"schema": fields, "example": example}}}}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with its definitions in their places."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items()}


def error_responses() -> dict[int | str, dict[str, Any]]:
    """Returns the error responses of /segment by status, with an example of each code."""
    responses: dict[int | str, dict[str, Any]] = {}
    for code, detail in ERROR_EXAMPLES.items():
        response = responses.setdefault(
            STATUS_OF_CODE[code], {"model": Error, "content": {JSON_TYPE: {"examples": {}}}}
        )
        value = {"status": "error", "detail": detail, "code": code, "request_id": "5f0c2d6e"}
        response["content"][JSON_TYPE]["examples"][code] = {"summary": code, "value": value}
    return responses


def event_responses() -> dict[int | str, dict[str, Any]]:
    """Returns the successful response of /segment/stream, with the schema and an example of its events."""
    description = (
        "Server-sent events. `accepted`: the names of the targets; `object`: an entry of `masks` in the answer to "
        "`/segment`, and the index of its target; `done`, the last one: the answer to `/segment` without `masks`; or "
        "`error`, the last one, too: the body of an error. Targets come in any order."
    )
    example = b"".join(encode_event(name, data) for name, data in EVENT_EXAMPLES.items()).decode()
    event = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": [*EVENT_EXAMPLES, "error"]},
            "data": {"type": "string", "contentMediaType": JSON_TYPE},
        },
    }
    content = {EVENT_STREAM: {"schema": event, "example": example}}
    return {200: {"description": description, "content": content}}
