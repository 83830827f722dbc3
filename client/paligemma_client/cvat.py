"""CVAT's automatic annotation by text: a detection function for `cvat-cli task auto-annotate`.

    cvat-cli task auto-annotate 137 --function-module paligemma_client.cvat \\
      -p "labels=str:cat=tabby cat;wheel" -p shape=str:polygon --conf-threshold 0.3

CVAT matches labels by name; each label is asked for with a prompt of its own. CVAT calls a function picture by picture:
the labels of one picture are asked for at the same time, and several pictures only by several such commands.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import encode_mask
from PIL import Image

from paligemma_client.client import DEFAULT_TIMEOUT_S, Client, Transport
from paligemma_client.objects import FoundObject
from paligemma_client.outlines import Ring, signed_area
from paligemma_client.pictures import encode_png

Shape = Literal["mask", "polygon", "rectangle"]

SHAPES: Final[tuple[Shape, ...]] = ("mask", "polygon", "rectangle")
MAX_LABELS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Label:
    """A label of the task, and what the model is asked to find it."""

    name: str
    prompt: str


def create(
    labels: str,
    shape: str = "mask",
    min_score: float = 0.0,
    server: str = "",
    transport: str = "rest",
    api_key_file: str = "",
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> "SegmentFunction":
    """The function, from the parameters that cvat-cli is given with -p.

    Args:
        labels: names with `;` between them; `name=prompt` where the prompt is not the name.
        shape: mask, polygon or rectangle.
        min_score: objects with a lower box score are left out; CVAT's own threshold, if higher, holds.
        server: the gateway's address, or host:port of Triton's gRPC; empty for this machine.
        transport: rest or triton.
        api_key_file: a file with the gateway's key; empty for none.
        timeout_s: for each prompt, its repetitions included.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, and is {shape!r}")
    wanted = read_labels(labels)
    key = Path(api_key_file).read_text(encoding="utf-8").strip() if api_key_file else None
    client = Client(server or None, transport=cast(Transport, transport), api_key=key, timeout_s=timeout_s)
    return SegmentFunction(client, wanted, shape, min_score)


def read_labels(labels: str) -> list[Label]:
    """`cat=tabby cat;wheel` as labels; raises ValueError where there are none, or two of one name."""
    pairs = [part.partition("=") for part in labels.split(";") if part.strip()]
    read = [Label(name.strip(), prompt.strip() or name.strip()) for name, _, prompt in pairs]
    if not read or len({label.name for label in read}) < len(read):
        raise ValueError(f"give each label once, such as 'labels=str:cat;wheel=left wheel', not {labels!r}")
    return read


class SegmentFunction:
    """What CVAT calls: the labels it can give, and the objects of a picture."""

    def __init__(self, client: Client, labels: Sequence[Label], shape: Shape, min_score: float) -> None:
        self._client, self._labels, self._shape, self._min_score = client, labels, shape, min_score
        self._pool = ThreadPoolExecutor(min(len(labels), MAX_LABELS_AT_ONCE))

    @property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """Labels are numbered in the order given."""
        specs = [cvataa.label_spec(label.name, number, type=self._shape) for number, label in enumerate(self._labels)]
        return cvataa.DetectionFunctionSpec(labels=specs)

    def close(self) -> None:
        """Ends threads and connections; cvat-cli just exits."""
        self._pool.shutdown()
        self._client.close()

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image.Image) -> list[cvataa.DetectionAnnotation]:
        """The objects of one picture, all labels asked for at once."""
        picture = encode_png(image.convert("RGB"))
        min_score = max(self._min_score, context.conf_threshold or 0.0)
        shape: Shape = "polygon" if context.conv_mask_to_poly and self._shape == "mask" else self._shape
        ask = self._client.detect if shape == "rectangle" else self._client.segment
        answers = self._pool.map(lambda label: ask(picture, label.prompt, min_score=min_score), self._labels)
        shapes: list[cvataa.DetectionAnnotation] = []
        for label_id, answer in enumerate(answers):
            for found in answer.objects:
                group = len(shapes) + 1
                shapes += _shapes(found, label_id, shape, group)
        return shapes


def _shapes(found: FoundObject, label_id: int, shape: Shape, group: int) -> list[Any]:
    """One shape; a group of polygons where the object has several parts; none where it has no pixels."""
    if shape == "rectangle":
        x_min, y_min, x_max, y_max = found.box_xyxy
        empty = x_max <= x_min or y_max <= y_min
        return [] if empty else [cvataa.rectangle(label_id, [float(side) for side in found.box_xyxy])]
    mask = found.mask
    if mask is None or not mask.any():
        return []
    if shape == "mask":
        return [cvataa.mask(label_id, encode_mask(mask))]
    rings = [ring for ring in found.polygon() if signed_area(ring) > 0]
    extra = {"group": group} if len(rings) > 1 else {}
    return [cvataa.polygon(label_id, _points(ring), **extra) for ring in rings]


def _points(ring: Ring) -> list[float]:
    return [float(number) for number in ring.ravel().tolist()]
