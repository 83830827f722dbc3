"""A strict stand-in for Triton's `triton_python_backend_utils`, to run adapters without a server.

It knows a model's config.pbtxt: reading an input or writing an output that is not there, or of another type or shape,
is an error. It is the only fake of Triton in the tests; everything else talks to the real server.
"""

import importlib.util
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

MODEL_REPOSITORY = Path(__file__).resolve().parent.parent.parent / "model_repository"
ANSWER_TIMEOUT_S = 60.0


def read_config(model: str) -> Any:
    """A model's config.pbtxt as a ModelConfig message; unknown fields are an error."""
    text = (MODEL_REPOSITORY / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def numpy_type(tensor: Any) -> Any:
    """The numpy type of a tensor in a ModelConfig."""
    name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return triton_to_np_dtype({"STRING": "BYTES"}.get(name, name))


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        assert isinstance(array, np.ndarray), f"{name} is no numpy array"
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        assert isinstance(message, str) and isinstance(code, int)
        self.message, self.code = message, code


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        assert isinstance(output_tensors, list)
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        assert len(self.outputs) == len(output_tensors), "an output is given twice"
        self.error = error


class ResponseSender:
    """Takes exactly one response, with the final flag; where real Triton would crash, it notes a misuse."""

    def __init__(self) -> None:
        self.responses: queue.SimpleQueue[InferenceResponse] = queue.SimpleQueue()
        self.cancelled = False
        self.misuses: list[str] = []
        self._closed = False
        self._busy = threading.Lock()

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        with self._alone("send"):
            assert flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
            self._closed = True
        self.responses.put(response)

    def is_cancelled(self) -> bool:
        with self._alone("is_cancelled"):
            time.sleep(0.02)  # a round trip, on a bad day
            return self.cancelled

    @contextmanager
    def _alone(self, verb: str) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            self.misuses.append(f"{verb} while another thread uses the sender")
            self._busy.acquire()
        if self._closed:
            self.misuses.append(f"{verb} after the final response")
        try:
            yield
        finally:
            self._busy.release()


TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class Request:
    """A request to a model, with the inputs that its config.pbtxt allows."""

    def __init__(self, config: Any, inputs: dict[str, np.ndarray], *, timeout_us: int = 0) -> None:
        declared = {tensor.name: tensor for tensor in config.input}
        for name, array in inputs.items():
            assert array.dtype == numpy_type(declared[name]), name
        missing = [name for name, tensor in declared.items() if name not in inputs and not tensor.optional]
        assert not missing, f"Triton itself refuses a request without {missing}"
        self._declared, self._inputs, self._timeout_us = declared, inputs, timeout_us
        self.sender = ResponseSender()

    def read(self, name: str) -> Tensor | None:
        assert name in self._declared, f"the config has no input {name}"
        return Tensor(name, self._inputs[name]) if name in self._inputs else None

    def timeout(self) -> int:
        return self._timeout_us

    def get_response_sender(self) -> ResponseSender:
        return self.sender


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, name: str, description: str, kind: int) -> None:
        assert name and description
        self.name, self.kind = name, kind
        self.series: list[Metric] = []

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> "Metric":  # noqa: N802
        assert bool(buckets) == (self.kind == self.HISTOGRAM)
        assert labels not in [series.labels for series in self.series], "the same series twice"
        self.series.append(Metric(self.kind, labels))
        return self.series[-1]


class Metric:
    def __init__(self, kind: int, labels: dict[str, str]) -> None:
        self.kind, self.labels = kind, labels
        self.values: list[float] = []

    def increment(self, value: float) -> None:
        assert self.kind == MetricFamily.COUNTER and value >= 0
        self.values.append(value)

    def set(self, value: float) -> None:
        assert self.kind == MetricFamily.GAUGE
        self.values.append(value)

    def observe(self, value: float) -> None:
        assert self.kind == MetricFamily.HISTOGRAM
        self.values.append(value)


def check_response(config: Any, response: InferenceResponse) -> None:
    """Exactly the outputs of the config, each of its type and shape."""
    assert response.error is None, response.error and response.error.message
    assert set(response.outputs) == {tensor.name for tensor in config.output}
    for tensor in config.output:
        array = response.outputs[tensor.name]
        assert array.dtype == numpy_type(tensor), f"{tensor.name} is {array.dtype}"
        assert len(array.shape) == len(tensor.dims), f"{tensor.name} has shape {array.shape}"
        assert all(dim in (-1, size) for dim, size in zip(tensor.dims, array.shape, strict=True)), tensor.name


@contextmanager
def adapter(model: str, arguments: dict[str, str] | None = None) -> Iterator[Any]:
    """A model's TritonPythonModel, initialized; finalized when the context ends."""
    folder = MODEL_REPOSITORY / model / "1"
    before = set(sys.modules)
    sys.modules["triton_python_backend_utils"] = _backend_utils()
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(f"adapter_of_{model}", folder / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
        siblings = {path.stem for path in folder.glob("*.py")} | {"triton_python_backend_utils"}
        for name in (set(sys.modules) - before) & siblings:
            del sys.modules[name]
    instance = module.TritonPythonModel()
    if hasattr(instance, "initialize"):
        instance.initialize(arguments or {})
    try:
        yield instance
    finally:
        if hasattr(instance, "finalize"):
            instance.finalize()


def answer(instance: Any, request: Request) -> InferenceResponse:
    """One request through an adapter, whether it answers at once or through its sender."""
    responses = instance.execute([request])
    if responses is not None:
        (response,) = responses
        assert isinstance(response, InferenceResponse)
        return response
    return request.sender.responses.get(timeout=ANSWER_TIMEOUT_S)


def _backend_utils() -> ModuleType:
    module = ModuleType("triton_python_backend_utils")
    for kind in (Tensor, TritonError, InferenceResponse, MetricFamily):
        setattr(module, kind.__name__, kind)
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = TRITONSERVER_RESPONSE_COMPLETE_FINAL  # type: ignore[attr-defined]
    module.get_input_tensor_by_name = Request.read  # type: ignore[attr-defined]
    return module
