"""The client of one Triton's `segment`."""

import asyncio
import math
import re
from enum import Enum
from typing import Any, Final

import grpc
import tritonclient.grpc.aio as grpcclient
from opentelemetry import propagate
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from gateway.answers.segmentation import Segmentation, SegmentedObject, Target
from gateway.door.deadline import time_is_up
from gateway.errors import STATUS_OF_CODE, ApiError
from gateway.schemas import Version
from gateway.triton.wire import OUTPUTS, SerializedRequest
from gateway.version import VERSION

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
MODELS: Final = ("paligemma", "token_parser", "mask_decoder", "segment")
ANSWER_GRACE_S: Final = 2.0  # Triton keeps the deadline itself; this is time for its answer to arrive
READY_TIMEOUT_S: Final = 2.0
UNAVAILABLE: Final = "the model server cannot be reached; try again later"

_CODED_MESSAGE: Final = re.compile(r"\[([a-z_]+)\] (.*)", re.DOTALL)


class Health(Enum):
    """A server's state, from a readiness probe of its models."""

    READY = "ready"
    NOT_READY = "not ready"
    UNREACHABLE = "cannot be reached"
    SILENT = "does not answer"


class ReplicaFault(ApiError):
    """A fault of the server, not of the request: another server may answer."""


class TritonSegmenter:
    """Calls one Triton over gRPC."""

    def __init__(self, url: str, *, keepalive_s: float, traced: bool = False) -> None:
        """Takes Triton's address.

        Args:
            url: host and port.
            keepalive_s: Triton is pinged after this silence while requests run; they fail if the ping is unanswered for
                as long again.
            traced: whether trace headers are passed on to Triton.
        """
        options = _channel_options(keepalive_s)
        self._client = grpcclient.InferenceServerClient(url, channel_args=options)
        self._channel = grpc.aio.insecure_channel(url, options)
        self._infer = self._channel.unary_unary(INFER, response_deserializer=service_pb2.ModelInferResponse.FromString)
        self._traced = traced

    async def close(self) -> None:
        """Closes the connections."""
        await self._channel.close()
        await self._client.close()

    async def is_ready(self) -> bool:
        """Whether all models of the server are ready."""
        return await self.health() is Health.READY

    async def health(self) -> Health:
        """Probes all models of the server; takes at most READY_TIMEOUT_S."""
        probes = (self._client.is_model_ready(name, client_timeout=READY_TIMEOUT_S) for name in MODELS)
        try:
            return Health.READY if all(await asyncio.gather(*probes)) else Health.NOT_READY
        except InferenceServerException as error:
            silent = error.status() == "StatusCode.DEADLINE_EXCEEDED"
            return Health.SILENT if silent else Health.UNREACHABLE

    async def version(self) -> Version:
        """Returns the gateway's version, and the server's if it answers."""
        try:
            metadata = await self._client.get_server_metadata(client_timeout=READY_TIMEOUT_S)
        except InferenceServerException:
            return Version(version=VERSION, triton=None)
        return Version(version=VERSION, triton=metadata.version)

    async def segment(self, request: SerializedRequest, *, timeout_s: float) -> Segmentation:
        """Returns the answer to a serialised request; raises ApiError if there is none."""
        trace_headers: dict[str, str] = {}
        if self._traced:
            propagate.inject(trace_headers)
        try:
            response = await self._infer(
                request.message, timeout=timeout_s + ANSWER_GRACE_S, metadata=tuple(trace_headers.items())
            )
        except grpc.aio.AioRpcError as error:
            raise _api_error(InferenceServerException(error.details(), str(error.code()))) from error
        return _read(grpcclient.InferResult(response))


def _channel_options(keepalive_s: float) -> list[tuple[str, int]]:
    """Returns gRPC's options. They replace tritonclient's own, so they include its message limits."""
    keepalive_ms = math.ceil(keepalive_s * 1e3)
    return [
        ("grpc.max_send_message_length", grpcclient.MAX_GRPC_MESSAGE_SIZE),
        ("grpc.max_receive_message_length", grpcclient.MAX_GRPC_MESSAGE_SIZE),
        # Proxies of the environment are for the web; Triton is part of this service.
        ("grpc.enable_http_proxy", 0),
        # Otherwise a Triton that hangs, or a lost host, is noticed only at the requests' deadlines. Pings without data
        # are not limited, since nothing is sent while a long request runs.
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        (
            "grpc.http2.ping_timeout_ms",
            keepalive_ms,
        ),  # for gRPC's own pings, which replace those while one is unanswered
        ("grpc.http2.max_pings_without_data", 0),
        # A connection that is accepted and then silent is dropped as soon (gRPC's default: 20 s). A restarted Triton is
        # found at once (gRPC's default: up to two minutes between attempts).
        ("grpc.min_reconnect_backoff_ms", keepalive_ms),
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


def _read(result: Any) -> Segmentation:
    arrays = {name: result.as_numpy(name) for name in OUTPUTS}
    columns = ("boxes", "labels", "scores", "masks", "has_mask", "target")
    rows = zip(*(arrays[name] for name in columns), strict=True)
    targets = zip(arrays["targets"], arrays["finish_reason"], strict=True)
    height, width = arrays["image_size"].tolist()
    return Segmentation(
        objects=[
            SegmentedObject(
                box_xyxy=tuple(box.tolist()),
                label=label.decode(errors="replace"),
                score=float(scores[0]),
                mask_logits=mask if has_mask else None,
                mask_score=float(scores[1]) if has_mask else None,
                target=int(target),
            )
            for box, label, scores, mask, has_mask, target in rows
        ],
        targets=[Target(text.decode(errors="replace"), reason.decode()) for text, reason in targets],
        text=arrays["text"][0].decode(errors="replace"),
        input_image=arrays["input_image"],
        original_hw=(height, width),
    )


def _api_error(error: InferenceServerException) -> ApiError:
    """Returns our error for Triton's. Errors of our models start with `[code]`; others are Triton's own."""
    coded = _CODED_MESSAGE.search(error.message() or "")
    if coded is not None and coded[1] in STATUS_OF_CODE:
        is_stopping = coded[1] == "unavailable"
        return ReplicaFault(coded[1], coded[2]) if is_stopping else ApiError(coded[1], coded[2])
    match error.status():
        case "StatusCode.DEADLINE_EXCEEDED":
            return time_is_up()
        case "StatusCode.UNAVAILABLE":
            return ReplicaFault("unavailable", UNAVAILABLE)
        case _:
            return ReplicaFault("internal", "the model server failed on this request")
