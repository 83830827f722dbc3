"""Triton's model `segment` over gRPC, with the same questions and answers as over REST.

Needs the extra `triton`. What the gateway does beside passing on is done here: the score's bound, and masks in the
picture's size.
"""

import asyncio
import importlib
import re
from typing import Any, Final, NoReturn

import numpy as np

from paligemma_client import masks
from paligemma_client.errors import (
    KIND_OF_CODE,
    UNKNOWN_CODE,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    ServerFailed,
    UnsupportedCall,
)
from paligemma_client.objects import FoundObject, Result
from paligemma_client.questions import Question
from paligemma_client.targets import Target

MODEL: Final = "segment"
OUTPUTS: Final = ("text", "boxes", "masks", "labels", "scores", "has_mask", "image_size", "targets", "finish_reason")
MAX_MESSAGE_BYTES: Final = 2**31 - 1  # gRPC's own limit of 4 MB would refuse large pictures
SCORE_DECIMALS: Final = 4  # as the gateway rounds
_CHANNEL: Final = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 250),  # gRPC would wait up to two minutes for a server that is back
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_CODED_MESSAGE: Final = re.compile(r"\[([a-z_]+)\] (.*)", re.DOTALL)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = "the transport triton needs tritonclient: pip install 'paligemma-client[triton]'"
        raise ClientError(message) from error


class _Protocol:
    """Everything that both transports share; only the call differs."""

    def __init__(self, server: str, api_key: str | None, module: str) -> None:
        if "://" in server:
            raise ValueError(f"the address of Triton's gRPC port is host:port, without a scheme, and is {server!r}")
        if api_key is not None:
            raise ValueError("Triton knows no keys; leave the key out, or use the transport rest")
        self._grpc = _library(module)
        self.error: type[Exception] = _library("tritonclient.utils").InferenceServerException
        self.connection = self._grpc.InferenceServerClient(server, channel_args=_CHANNEL)

    def arguments(self, question: Question, timeout_s: float) -> dict[str, Any]:
        """The arguments of `infer`."""
        asking = question.asking
        inputs = [self._bytes("image", question.picture), self._bytes("prompt", question.prompt.encode())]
        if asking.model_id is not None:
            inputs.append(self._bytes("model_id", asking.model_id.encode()))
        if asking.max_new_tokens is not None:
            bound = self._grpc.InferInput("max_new_tokens", [1], "INT32")
            inputs.append(bound.set_data_from_numpy(np.array([asking.max_new_tokens], np.int32)))
        return {
            "model_name": MODEL,
            "inputs": inputs,
            "outputs": [self._grpc.InferRequestedOutput(name) for name in OUTPUTS],
            "timeout": max(1, int(timeout_s * 1e6)),
            "client_timeout": max(timeout_s, 0.001),
        }

    def models(self, *_: object) -> NoReturn:
        """Raises UnsupportedCall: Triton does not list the models."""
        raise UnsupportedCall("Triton does not say which checkpoints there are; ask the gateway")

    def stream(self, *_: object) -> NoReturn:
        """Raises UnsupportedCall: Triton does not stream objects."""
        raise UnsupportedCall("Triton does not stream; ask the gateway")

    def _bytes(self, name: str, value: bytes) -> Any:
        return self._grpc.InferInput(name, [1], "BYTES").set_data_from_numpy(np.array([value], np.object_))


def read_answer(answer: Any, question: Question) -> Result:
    """Reads the result of `infer`."""
    arrays = {name: answer.as_numpy(name) for name in OUTPUTS}
    height, width = arrays["image_size"].tolist()
    rows = zip(arrays["boxes"], arrays["labels"], arrays["scores"], arrays["masks"], arrays["has_mask"], strict=True)
    ends = zip(arrays["targets"], arrays["finish_reason"], strict=True)
    objects = []
    for box, label, (score, mask_score), mask_logits, has_mask in rows:
        if score < question.asking.min_score:
            continue
        sides = (width, height, width, height)
        x_min, y_min, x_max, y_max = (round(share * side) for share, side in zip(box.tolist(), sides, strict=True))
        box_xyxy = (x_min, y_min, x_max, y_max)
        pasted = masks.paste_logits(mask_logits, box_xyxy, width=width, height=height) if has_mask else None
        objects.append(
            FoundObject(
                label=label.decode(errors="replace"),
                score=round(float(score), SCORE_DECIMALS),
                box_xyxy=box_xyxy,
                mask_score=round(float(mask_score), SCORE_DECIMALS) if has_mask else None,
                run_lengths=None if pasted is None else masks.encode(pasted),
            )
        )
    return Result(
        objects=objects,
        width=width,
        height=height,
        text=arrays["text"][0].decode(errors="replace"),
        targets=[Target(name.decode(errors="replace"), reason.decode()) for name, reason in ends],
        model_id=question.asking.model_id,
        picture=question.picture,
    )


def raise_for(error: Any) -> NoReturn:
    """Raises the error of this package for an error of Triton."""
    message, status = error.message() or "", error.status() or ""
    coded = _CODED_MESSAGE.search(message)
    if coded is not None and coded[1] in {*KIND_OF_CODE, "internal", "model_failed", "hub_failed", "cancelled"}:
        raise KIND_OF_CODE.get(coded[1], ServerFailed)(coded[1], coded[2]) from error
    if status.endswith("DEADLINE_EXCEEDED") or (coded is not None and coded[1] == "deadline"):
        raise DeadlineExceeded("Triton did not answer in time") from error
    if status.endswith("UNAVAILABLE"):
        raise ConnectionFailed(f"Triton cannot be reached or went away: {message}") from error
    raise ServerFailed(UNKNOWN_CODE, message) from error


class TritonTransport(_Protocol):
    """For Client."""

    def __init__(self, server: str, api_key: str | None) -> None:
        super().__init__(server, api_key, "tritonclient.grpc")

    def ask(self, question: Question, timeout_s: float) -> Result:
        """One answer."""
        try:
            answer = self.connection.infer(**self.arguments(question, timeout_s))
        except self.error as error:
            raise_for(error)
        return read_answer(answer, question)

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()


class AsyncTritonTransport(_Protocol):
    """For AsyncClient."""

    def __init__(self, server: str, api_key: str | None) -> None:
        super().__init__(server, api_key, "tritonclient.grpc.aio")

    async def ask(self, question: Question, timeout_s: float) -> Result:
        """One answer."""
        try:
            answer = await self.connection.infer(**self.arguments(question, timeout_s))
        except self.error as error:
            raise_for(error)
        return await asyncio.to_thread(read_answer, answer, question)

    async def close(self) -> None:
        """Ends the connection."""
        await self.connection.close()
