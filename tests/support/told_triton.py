"""A strict stand-in for Triton in the test's own event loop, which answers a prompt when the test says so.

A prompt that is asked waits until the test tells its answer. What the gateway sends is held against the configuration
of the ensemble: names, types and shapes of inputs and outputs.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from fixed_delay_triton import make_answer
from triton_fake import read_config
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

WAIT_S = 30.0


@dataclass
class Asked:
    """One request for a prompt."""

    message: Any
    told: asyncio.Future[Any] = field(default_factory=asyncio.Future)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, label: str = "cat", *, count: int = 1, target: str | None = None) -> None:
        """So many equal objects; `target` is the label where it is not given."""
        self.told.set_result(make_answer(label, count=count, target=label if target is None else target))

    def refuse(self, status: grpc.StatusCode, message: str) -> None:
        self.told.set_exception(_Refusal(status, message))


class _Refusal(Exception):
    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class ToldTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Requests by prompt, in the order in which they came."""

    def __init__(self) -> None:
        self.asked: defaultdict[str, list[Asked]] = defaultdict(list)
        self._news = asyncio.Condition()

    async def wait_for(self, prompt: str, number: int = 1) -> Asked:
        """The latest request for a prompt, when so many have come."""
        async with asyncio.timeout(WAIT_S), self._news:
            await self._news.wait_for(lambda: len(self.asked[prompt]) >= number)
        return self.asked[prompt][number - 1]

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        asked = Asked(request)
        async with self._news:
            self.asked[_checked_prompt(request)].append(asked)
            self._news.notify_all()
        try:
            return await asked.told
        except asyncio.CancelledError:
            asked.cancelled.set()
            raise
        except _Refusal as refusal:
            await context.abort(refusal.status, refusal.message)


def _checked_prompt(request: Any) -> str:
    config = read_config("segment")
    declared = {tensor.name: tensor for tensor in config.input}
    raw = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    for tensor in request.inputs:
        kind = model_config_pb2.DataType.Name(declared[tensor.name].data_type).removeprefix("TYPE_")
        assert tensor.datatype == {"STRING": "BYTES"}.get(kind, kind), tensor.name
        assert list(tensor.shape) == list(declared[tensor.name].dims), tensor.name
    assert {name for name, tensor in declared.items() if not tensor.optional} <= raw.keys()
    assert {output.name for output in request.outputs} <= {tensor.name for tensor in config.output}
    prompt: str = raw["prompt"][4:].decode()
    return prompt


@asynccontextmanager
async def told_triton() -> AsyncIterator[tuple[ToldTriton, int]]:
    """A running one, and its port."""
    triton = ToldTriton()
    server = grpc.aio.server(options=[("grpc.http2.max_ping_strikes", 0), ("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield triton, port
    finally:
        await server.stop(None)
