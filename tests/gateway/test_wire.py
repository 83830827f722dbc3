"""What Triton is sent."""

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2

from gateway.triton.wire import OUTPUTS, SegmentRequest, serialize_request


@pytest.mark.parametrize("image", [b"", b"a picture", memoryview(b"a picture"), bytearray(3_000_000)])
@pytest.mark.parametrize("options", [{}, {"model_id": "a/b", "max_new_tokens": 7}])
def test_it_is_what_tritonclient_would_send(image: bytes, options: dict[str, object]) -> None:
    asked = {"model_id": None, "max_new_tokens": None, **options}
    sent = serialize_request(
        SegmentRequest(image=image, prompt="segment schön", timeout_s=1.5, request_id="an-id", **asked)  # type: ignore[arg-type]
    )
    message = service_pb2.ModelInferRequest.FromString(sent.message)
    assert (message.model_name, message.id) == ("segment", "an-id")
    assert message.parameters["timeout"].int64_param == 1_500_000
    assert [output.name for output in message.outputs] == list(OUTPUTS)
    raw = {tensor.name: raw for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)}
    expected = {"prompt": as_bytes("segment schön".encode()), "image": as_bytes(bytes(image))}
    if options:
        expected |= {"model_id": as_bytes(b"a/b"), "max_new_tokens": np.array([7], np.int32).tobytes()}
    assert raw == expected
    assert {tensor.name: tensor.datatype for tensor in message.inputs} == {
        name: "INT32" if name == "max_new_tokens" else "BYTES" for name in expected
    }
    assert {tuple(tensor.shape) for tensor in message.inputs} == {(1,)}


def as_bytes(value: bytes) -> bytes:
    tensor = grpcclient.InferInput("any", [1], "BYTES").set_data_from_numpy(np.array([value], np.object_))
    return bytes(tensor._get_content())
