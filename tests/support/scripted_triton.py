"""A Triton in this process that answers `segment` as a test says: one round object for each target of the prompt."""

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from fixed_delay_triton import DATATYPES, RESOLUTION, texts
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

ORIGINAL_HW = (48, 64)
SCORES = (0.9, 0.8)


@dataclass(frozen=True)
class Refusal(Exception):
    """What the engine refuses a request with."""

    code: str
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE


@dataclass
class ScriptedTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`check` is called with prompt and image before each answer; it may raise Refusal, or wait."""

    check: Callable[[str, bytes], None] = lambda _prompt, _image: None
    finish_reason: str = "eos"
    prompts: list[str] = field(default_factory=list)
    port: int = 0

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        raw = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
        prompt, image = _element(raw["prompt"]).decode(), _element(raw["image"])
        self.prompts.append(prompt)
        try:
            self.check(prompt, image)
        except Refusal as refused:
            context.abort(refused.status, f"[{refused.code}] try something else")
        return answer_to([target.strip() for target in prompt.removeprefix("segment ").split(";")], self.finish_reason)


@contextmanager
def scripted_triton(triton: ScriptedTriton) -> Iterator[ScriptedTriton]:
    """The same, listening on `port`."""
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    triton.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield triton
    finally:
        server.stop(None).wait()


def mask_logits() -> np.ndarray:
    """float32[64, 64]: a ring, so that there is a hole."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    ring: np.ndarray = (0.3 - np.abs(np.hypot(x, y) - 0.6)).astype(np.float32)
    return ring


def box_of(index: int) -> tuple[float, float, float, float]:
    """Where the object of each target is."""
    return 0.125 * index / 2, 0.25, 0.125 * index / 2 + 0.5, 0.75


def answer_to(targets: list[str], finish_reason: str = "eos") -> Any:
    """A ModelInferResponse of `segment` for an image of ORIGINAL_HW."""
    count = len(targets)
    outputs = {
        "text": texts(["<loc>"]),
        "boxes": np.array([box_of(index) for index in range(count)], np.float32),
        "masks": np.stack([mask_logits()] * count),
        "labels": texts(targets),
        "scores": np.array([SCORES] * count, np.float32),
        "has_mask": np.ones(count, np.bool_),
        "input_image": np.zeros((RESOLUTION, RESOLUTION, 3), np.uint8),
        "image_size": np.array(ORIGINAL_HW, np.int32),
        "finish_reason": texts([finish_reason] * count),
        "targets": texts(targets),
        "target": np.arange(count, dtype=np.int32),
    }
    response = service_pb2.ModelInferResponse(model_name="segment", model_version="1")
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        raw = serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()
        response.raw_output_contents.append(raw)
    return response


def _element(raw: bytes) -> bytes:
    """The one element of a BYTES tensor."""
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length]
