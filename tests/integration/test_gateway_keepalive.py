"""The gateway's pings against a real Triton: the server puts up with them, and they tell when it hangs."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc.aio as grpcclient
from stack import START_TIMEOUT_S, Ports, serve

from gateway.errors import ApiError
from gateway.triton.client import TritonSegmenter
from gateway.triton.wire import SegmentRequest, serialize_request

KEEPALIVE_S = 1.0
TIMEOUT_S = 60.0


SLOW_CONFIG = """
name: "slow"
backend: "python"
max_batch_size: 0
input [ { name: "seconds" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "seconds_slept" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
SLOW_MODEL = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        (request,) = requests
        seconds = pb_utils.get_input_tensor_by_name(request, "seconds").as_numpy()
        time.sleep(float(seconds[0]))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("seconds_slept", seconds)])]
"""
SLOW_S = 8.0  # Triton's own default ended such a request after 5 s: "too many pings"


def test_a_long_request_is_pinged_and_goes_on(tmp_path: Path) -> None:
    version = tmp_path / "slow" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(SLOW_CONFIG)
    (version / "model.py").write_text(SLOW_MODEL)
    ports = Ports.free()

    async def slept_s() -> float:
        segmenter = TritonSegmenter(f"127.0.0.1:{ports.grpc}", keepalive_s=KEEPALIVE_S / 2)
        seconds = grpcclient.InferInput("seconds", [1], "FP32")
        seconds.set_data_from_numpy(np.array([SLOW_S], np.float32))
        result = await segmenter._client.infer("slow", [seconds])
        await segmenter.close()
        return float(result.as_numpy("seconds_slept")[0])

    with serve(ports, "--model-repository", str(tmp_path)) as server:
        server.wait_for_line("^serve: ready", START_TIMEOUT_S)
        assert asyncio.run(slept_s()) == SLOW_S


def test_a_server_that_hangs_is_noticed(stack: Any, sample_image: bytes) -> None:
    family = psutil.Process(stack.supervisor_pid).children()
    (server,) = [process for process in family if "tritonserver" in process.name()]
    asked = SegmentRequest(
        image=sample_image,
        prompt="segment blue star",
        model_id=None,
        max_new_tokens=None,
        timeout_s=TIMEOUT_S,
        request_id="a",
    )

    async def code() -> str:
        segmenter = TritonSegmenter(f"127.0.0.1:{stack.ports.grpc}", keepalive_s=KEEPALIVE_S)
        assert await segmenter.is_ready()
        server.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(ApiError) as refused:
                await asyncio.wait_for(segmenter.segment(serialize_request(asked), timeout_s=TIMEOUT_S), TIMEOUT_S / 4)
        finally:
            server.send_signal(signal.SIGCONT)
            await segmenter.close()
        return refused.value.code

    assert asyncio.run(code()) == "unavailable"
    assert stack.ask("grpc", sample_image, "segment blue star")["labels"].tolist() == [b"blue star"]
