"""What a call returns: the objects of a picture, and the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma_client import masks
from paligemma_client.drawing import draw_objects
from paligemma_client.formats import to_coco, to_fiftyone, to_supervision
from paligemma_client.masks import Box, RunLengths
from paligemma_client.outlines import Ring, rings_of
from paligemma_client.pictures import open_upright
from paligemma_client.questions import TARGET_SEPARATOR
from paligemma_client.targets import Target

DEFAULT_TOLERANCE_PX: Final = 1.5  # the corners of a slanting edge's pixels lie in a strip that is nearly 2 pixels wide


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundObject:
    """One object, in pixels of the given picture, turned upright.

    Attributes:
        label: the name in the model's answer; the target if the answer has none.
        score: of the box, in [0, 1]; not calibrated.
        box_xyxy: x_min, y_min, x_max, y_max; the maxima are exclusive.
        mask_score: of the mask, in [0, 1]; None without a mask.
        run_lengths: the mask; None where the prompt asked for boxes only.
        target: the target of the prompt that it answers; None if the server does not send it.
    """

    label: str
    score: float
    box_xyxy: Box
    mask_score: float | None = None
    run_lengths: RunLengths | None = None
    target: str | None = None

    @property
    def category(self) -> str:
        """The target, if it is known and names one thing; else the label.

        `detect a ; b` is one target for the server.
        """
        return self.label if self.target is None or TARGET_SEPARATOR.strip() in self.target else self.target

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """bool[H, W] of the picture's size, decoded at each access; None if there is no mask."""
        return None if self.run_lengths is None else masks.decode(self.run_lengths)

    @property
    def area_px(self) -> int:
        """Pixels of the mask; of the box where there is no mask."""
        if self.run_lengths is not None:
            return masks.area(self.run_lengths)
        x_min, y_min, x_max, y_max = self.box_xyxy
        return (x_max - x_min) * (y_max - y_min)

    def rle(self) -> RunLengths | None:
        """The mask as COCO's compressed run lengths; None where there is no mask."""
        return self.run_lengths

    def polygon(self, *, tolerance_px: float = DEFAULT_TOLERANCE_PX) -> list[Ring]:
        """The mask's outlines, int64[N, 2] each, filled by the even-odd rule; empty where there is no mask.

        With a tolerance of 0 the rings enclose exactly the mask's pixels.
        """
        mask = self.mask
        return [] if mask is None else rings_of(mask, tolerance_px=tolerance_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer to a prompt on one picture.

    Attributes:
        objects: in the order of the answer; may be empty.
        width, height: of the picture, upright.
        text: what the model wrote, as it wrote it.
        targets: those of the prompt, and how the answer to each ended; empty if the server does not send them.
        model_id: which model answered; None over gRPC where the default one was asked.
        request_id: for the server's logs.
        timings_ms: the server's phases; empty over gRPC.
        picture: the encoded file that was sent.
    """

    objects: Sequence[FoundObject]
    width: int
    height: int
    text: str = ""
    targets: Sequence[Target] = ()
    model_id: str | None = None
    request_id: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    picture: bytes = field(default=b"", repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether the model ended the answer to every target itself; if not, objects may be missing."""
        return all(target.is_complete for target in self.targets)

    def image(self) -> Image.Image:
        """The picture in RGB, upright; masks and boxes fit it."""
        return open_upright(self.picture)

    def draw(self) -> Image.Image:
        """The picture with masks, boxes, labels and scores over it."""
        return draw_objects(self.image(), self.objects)

    def to_supervision(self) -> Any:
        """`supervision.Detections`; needs the package supervision."""
        return to_supervision(self)

    def to_fiftyone(self) -> Any:
        """`fiftyone.Detections`; needs the package fiftyone."""
        return to_fiftyone(self)

    def to_coco(self, *, image_id: int, category_ids: Mapping[str, int], first_id: int = 1) -> list[dict[str, Any]]:
        """COCO's annotations of this picture; categories are looked up by `FoundObject.category`."""
        return to_coco(self.objects, image_id=image_id, category_ids=category_ids, first_id=first_id)
