"""A Triton that answers `segment` after a fixed delay, so many requests at once: for load tests of the gateway only.

python tests/support/fixed_delay_triton.py PORT DELAY_S PARALLEL

Its answer does not depend on the request: one object on a picture of 224x224. It prints a line when it is ready, one
for each call, and one for each that was cancelled.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

RESOLUTION = 224
MASK_SIZE = 64
DATATYPES = {"float32": "FP32", "bool": "BOOL", "uint8": "UINT8", "int32": "INT32", "object": "BYTES"}


class FixedDelayTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, delay_s: float, parallel: int) -> None:
        self._delay_s = delay_s
        self._free = asyncio.Semaphore(parallel)
        self._answer = make_answer()

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        print(f"asked {request.id}", flush=True)
        try:
            async with self._free:
                await asyncio.sleep(self._delay_s)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
        return self._answer


def make_answer(label: str = "cat", *, count: int = 1, target: str = "cat") -> Any:
    """Objects in the middle, round and soft, as the real models would find one."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    picture = np.broadcast_to(np.arange(RESOLUTION)[:, None], (RESOLUTION, RESOLUTION, 3))
    outputs = {
        "text": texts([" ; ".join([f"<loc0256><loc0256><loc0767><loc0767> {label}"] * count)]),
        "boxes": np.array([[256, 256, 767, 767]] * count, np.float32).reshape(count, 4) / 1023,
        "masks": np.repeat((0.8 - np.hypot(x, y)).astype(np.float32)[None], count, axis=0),
        "labels": texts([label] * count),
        "scores": np.array([[0.9, 0.8]] * count, np.float32).reshape(count, 2),
        "has_mask": np.full(count, True),
        "input_image": picture.astype(np.uint8),
        "image_size": np.array([480, 640], np.int32),
        "finish_reason": texts(["eos"]),
        "targets": texts([target]),
        "target": np.zeros(count, np.int32),
    }
    return pack(outputs)


def pack(outputs: dict[str, np.ndarray]) -> Any:
    """The response with these outputs of `segment`."""
    response = service_pb2.ModelInferResponse(model_name="segment", model_version="1")
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        is_text = array.dtype == np.object_ and array.size > 0
        raw = serialize_byte_tensor(array).item() if is_text else array.tobytes()
        response.raw_output_contents.append(raw)
    return response


def texts(values: Sequence[str]) -> np.ndarray:
    return np.array([value.encode() for value in values], np.object_)


async def serve(port: int, delay_s: float, parallel: int) -> None:
    # As the supervisor tells the real one; images may be large.
    server = grpc.aio.server(options=[("grpc.http2.max_ping_strikes", 0), ("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(FixedDelayTriton(delay_s, parallel), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
