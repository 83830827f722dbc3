"""Serialises requests for Triton's gRPC, copying the image once.

tritonclient holds four copies of an image while it waits: an array's item, a tensor's bytes, the message, and the
serialised message. Here the message is serialised without the image, which is appended: in protobuf's encoding, fields
may come in any order, and repeated fields in pieces.
"""

import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from tritonclient.grpc import service_pb2

from gateway.inputs.read import EncodedImage

OUTPUTS: Final = (
    "text",
    "boxes",
    "masks",
    "labels",
    "scores",
    "has_mask",
    "input_image",
    "image_size",
    "finish_reason",
    "targets",
    "target",
)

_LENGTH_DELIMITED: Final = 2  # protobuf's wire type of bytes
_RAW_TAG: Final = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
_VARINT_BITS: Final = 7
_SAMPLE_BYTES: Final = 65_536  # of an image's end; with its length they tell images apart


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRequest:
    """A request to `segment`.

    Attributes:
        image: an encoded image file.
        prompt: with its task word.
        model_id: None for the default.
        max_new_tokens: None for the default.
        timeout_s: time limit for the answer.
        request_id: for the logs of both sides.
    """

    image: EncodedImage
    prompt: str
    model_id: str | None
    max_new_tokens: int | None
    timeout_s: float
    request_id: str


@dataclass(frozen=True, slots=True)
class SerializedRequest:
    """A serialised request, with the properties that decide its replica.

    Attributes:
        message: a ModelInferRequest of `segment`.
        picture: a digest of the image's length and its end; equal for equal images.
        names_model: whether the request names a model, which may have to be loaded first.
        request_id: as in the message; the targets of a stream are requests with the same id.
    """

    message: bytes
    picture: bytes
    names_model: bool
    request_id: str


def serialize_request(request: SegmentRequest) -> SerializedRequest:
    """Serialises a request to `segment`."""
    message = service_pb2.ModelInferRequest(model_name="segment", id=request.request_id)
    message.parameters["timeout"].int64_param = int(request.timeout_s * 1e6)
    _add_input(message, "prompt", "BYTES", _bytes_element(request.prompt.encode()))
    if request.model_id is not None:
        _add_input(message, "model_id", "BYTES", _bytes_element(request.model_id.encode()))
    if request.max_new_tokens is not None:
        _add_input(message, "max_new_tokens", "INT32", struct.pack("<i", request.max_new_tokens))
    message.inputs.add(name="image", datatype="BYTES", shape=[1])  # last: its contents are the last
    for name in OUTPUTS:
        message.outputs.add(name=name)
    length = struct.pack("<I", len(request.image))
    field_head = _varint(_RAW_TAG) + _varint(len(length) + len(request.image))
    return SerializedRequest(
        message=b"".join((message.SerializeToString(), field_head, length, request.image)),
        picture=blake2b(length + request.image[-_SAMPLE_BYTES:], digest_size=16).digest(),
        names_model=request.model_id is not None,
        request_id=request.request_id,
    )


def _add_input(message: service_pb2.ModelInferRequest, name: str, datatype: str, raw: bytes) -> None:
    message.inputs.add(name=name, datatype=datatype, shape=[1])
    message.raw_input_contents.append(raw)


def _bytes_element(value: bytes) -> bytes:
    """An element of a BYTES tensor: its length, then itself."""
    return struct.pack("<I", len(value)) + value


def _varint(value: int) -> bytes:
    """Protobuf's encoding of a whole number: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value >= 1 << _VARINT_BITS:
        encoded.append(value & 0x7F | 0x80)
        value >>= _VARINT_BITS
    encoded.append(value)
    return bytes(encoded)
