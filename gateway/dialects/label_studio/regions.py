"""Makes Label Studio's regions from found objects.

A region's numbers are in percent of the upright image's width and height.
"""

import base64
import io
import uuid
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway.answers.masks import mask_parts, paste_mask
from gateway.answers.outlines import simplified
from gateway.answers.segmentation import Segmentation, SegmentedObject
from gateway.answers.spaces import Space
from gateway.dialects.label_studio.interface import Control
from gateway.dialects.label_studio.run_lengths import encode_mask
from gateway.schemas import Ring

ID_LENGTH: Final = 8
PERCENT_DECIMALS: Final = 4
SCORE_DECIMALS: Final = 4
EPSILON_FACTOR: Final = (
    0.001  # tolerance of polygons: a fifth of a mask's sample for a round object, with few points to edit
)
_NORMALIZED: Final = Space(1, 1, normalized=True)

Region = dict[str, Any]


def regions_of(found: SegmentedObject, label: str, control: Control, segmentation: Segmentation) -> list[Region]:
    """Returns an object's regions for one control: several if a polygon has several parts, none without a mask."""
    height, width = segmentation.original_hw
    return [
        {
            "id": uuid.uuid4().hex[:ID_LENGTH],
            "from_name": control.name,
            "to_name": control.image,
            "type": control.kind,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(found.score, SCORE_DECIMALS),
            "value": {**value, control.kind: [label]},
        }
        for value in _values(found, control.kind, Space(width, height))
    ]


def _values(found: SegmentedObject, kind: str, original: Space) -> Iterator[dict[str, Any]]:
    if kind == "rectanglelabels":
        yield _rectangle(found)
    elif kind == "polygonlabels":
        for part in mask_parts(found, _NORMALIZED):
            ring = joined([simplified(ring, EPSILON_FACTOR) for ring in part])
            yield {"points": [[_percent(x), _percent(y)] for x, y in ring], "closed": True}
    elif found.mask_logits is not None:
        box = original.pixel_box(found.box_xyxy)
        mask = paste_mask(found.mask_logits, box, width=original.width, height=original.height)
        if kind == "brushlabels":
            yield {"format": "rle", "rle": encode_mask(mask)}
        else:
            yield {"imageDataURL": _black_on_transparent(mask)}


def joined(part: list[Ring]) -> Ring:
    """Joins a part's outline and holes into one ring, with a seam to each hole where it is nearest.

    Label Studio's polygons are one ring. The first point does not follow the last one again.
    """
    whole, *holes = (np.asarray(ring)[:-1] for ring in part)
    for hole in holes:
        gaps = np.linalg.norm(whole[:, None] - hole[None], axis=2)
        leave, enter = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
        detour = np.roll(hole, -int(enter), axis=0)
        whole = np.concatenate([whole[: leave + 1], detour, detour[:1], whole[leave:]])
    return [(x, y) for x, y in whole.tolist()]


def _rectangle(found: SegmentedObject) -> dict[str, Any]:
    x_min, y_min, x_max, y_max = found.box_xyxy
    size = {"width": _percent(x_max - x_min), "height": _percent(y_max - y_min)}
    return {"x": _percent(x_min), "y": _percent(y_min), **size, "rotation": 0}


def _percent(share: float) -> float:
    return round(share * 100, PERCENT_DECIMALS)


def _black_on_transparent(mask: NDArray[np.bool_]) -> str:
    """Returns a data: URL of a PNG with one bit per pixel. The editor reads only its opacity."""
    height, width = mask.shape
    background = 1
    image = Image.frombytes("P", (width, height), (~mask).tobytes())
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=1, transparency=background)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
