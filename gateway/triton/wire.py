"""Requests as Triton's gRPC has them, with an image copied once.

tritonclient holds an image four times while its answer is awaited: as an array's item, as a tensor's bytes, in the
message, and in the serialised message. Here the message is serialised without the image, which is then put behind it:
in protobuf's encoding, fields may come in any order, and repeated ones in pieces.
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
    """What Triton is asked.

    Attributes:
        image: an encoded image file.
        prompt: with its task word.
        model_id: None for the default.
        max_new_tokens: None for the default.
        timeout_s: how long the answer may take.
        request_id: for the logs of both sides.
    """

    image: EncodedImage
    prompt: str
    model_id: str | None
    max_new_tokens: int | None
    timeout_s: float
    request_id: str


def serialize_request(request: SegmentRequest) -> bytes:
    """A ModelInferRequest of `segment`, serialised."""
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
    return b"".join((message.SerializeToString(), field_head, length, request.image))


@dataclass(frozen=True, slots=True)
class RequestTraits:
    """What matters for the choice of a replica.

    Attributes:
        picture: identifies the image, by its length and its end.
        names_model: whether the request names a model, which may have to be loaded first.
    """

    picture: bytes
    names_model: bool


def read_traits(request: bytes) -> RequestTraits:
    """The traits of what `serialize_request` gave; an image of any size takes about 0.1 ms."""
    image_field, image_at = _last_field(request)
    head = service_pb2.ModelInferRequest.FromString(request[:image_field])
    sample = request[max(image_at, len(request) - _SAMPLE_BYTES) :]
    length = struct.pack("<Q", len(request) - image_at)
    return RequestTraits(
        picture=blake2b(length + sample, digest_size=16).digest(),
        names_model=any(tensor.name == "model_id" for tensor in head.inputs),
    )


def _last_field(message: bytes) -> tuple[int, int]:
    """Where the last field of a message begins, and where its contents do; all fields must be length-delimited."""
    field, end = 0, 0
    while True:
        field = end
        _tag, position = _read_varint(message, field)
        length, contents = _read_varint(message, position)
        end = contents + length
        if end >= len(message):
            return field, contents


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """A whole number in protobuf's encoding, and the position after it."""
    value, shift = 0, 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 1 << _VARINT_BITS:
            return value, position
        shift += _VARINT_BITS


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
