"""A Triton within the test's process: it finds what a script says of each target, and remembers what it was asked."""

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from fixed_delay_triton import MASK_SIZE, RESOLUTION, pack, texts
from tritonclient.grpc import service_pb2_grpc

NO_MASK = np.full((MASK_SIZE, MASK_SIZE), -1.0, np.float32)
Status = tuple[grpc.StatusCode, str]


def disc(radius: float = 0.8, hole: float = 0.0) -> np.ndarray:
    """float32[64, 64]: a disc in the middle, in shares of half the box; with a hole in it where one is asked for."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    distance = np.hypot(x, y)
    levels = np.minimum(radius - distance, distance - hole) if hole else radius - distance
    return np.asarray(levels, np.float32)


@dataclass(frozen=True)
class Thing:
    """What is found of a target.

    Attributes:
        box: x_min, y_min, x_max, y_max in [0, 1].
        mask: float32[64, 64]; None for an object without one.
    """

    box: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75)
    score: float = 0.9
    mask: np.ndarray | None = field(default_factory=disc)


Script = Callable[[str], Sequence[Thing]]


@dataclass
class AnsweringTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers `segment a ; b` with what the script has for each target.

    Attributes:
        script: things by target.
        size: height and width of the user's picture, whatever was sent.
        asked: the inputs of each request, by name.
        failure: answered instead, where there is one.
        refuse: what is answered instead to this prompt and image, if anything.
        finish_reason: of all targets.
    """

    script: Script
    size: tuple[int, int] = (480, 640)
    asked: list[dict[str, bytes]] = field(default_factory=list)
    failure: Status | None = None
    refuse: Callable[[str, bytes], Status | None] = lambda _prompt, _image: None
    finish_reason: str = "eos"
    address: str = ""

    @property
    def prompts(self) -> list[str]:
        return [inputs["prompt"].decode() for inputs in self.asked]

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        contents = [raw[struct.calcsize("<I") :] for raw in request.raw_input_contents]
        inputs = dict(zip((tensor.name for tensor in request.inputs), contents, strict=True))
        self.asked.append(inputs)
        failure = self.failure or self.refuse(inputs["prompt"].decode(), inputs["image"])
        if failure is not None:
            context.abort(*failure)
        targets = [part.strip() for part in inputs["prompt"].decode().removeprefix("segment ").split(";")]
        found = [(index, thing) for index, target in enumerate(targets) for thing in self.script(target)]
        return pack(self._outputs(targets, found))

    def _outputs(self, targets: list[str], found: list[tuple[int, Thing]]) -> dict[str, np.ndarray]:
        masks = [NO_MASK if thing.mask is None else thing.mask for _, thing in found]
        return {
            "text": texts(["an answer"]),
            "boxes": np.array([thing.box for _, thing in found], np.float32).reshape(-1, 4),
            "masks": np.array(masks, np.float32).reshape(-1, MASK_SIZE, MASK_SIZE),
            "labels": texts([targets[index] for index, _ in found]),
            "scores": np.array([[thing.score, 0.5] for _, thing in found], np.float32).reshape(-1, 2),
            "has_mask": np.array([thing.mask is not None for _, thing in found], np.bool_),
            "input_image": np.zeros((RESOLUTION, RESOLUTION, 3), np.uint8),
            "image_size": np.array(self.size, np.int32),
            "finish_reason": texts([self.finish_reason] * len(targets)),
            "targets": texts(targets),
            "target": np.array([index for index, _ in found], np.int32),
        }


@contextmanager
def answering_triton(script: Script, **options: Any) -> Iterator[AnsweringTriton]:
    """It serves on a port of its own until the context ends; `options` are its further attributes."""
    triton = AnsweringTriton(script, **options)
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    triton.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield triton
    finally:
        server.stop(None).wait()
