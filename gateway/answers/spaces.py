"""The coordinate spaces of answers."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.answers.encoding import pixel_coordinates
from gateway.answers.segmentation import Segmentation
from gateway.schemas import CoordinateSpace, Ring

NORMALIZED_DECIMALS: Final = 6
PIXEL_DECIMALS: Final = 2

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Space:
    """Pixels of an image of this size; fractions of its width and height if `normalized`."""

    width: int
    height: int
    normalized: bool = False

    @classmethod
    def of(cls, name: CoordinateSpace, segmentation: Segmentation) -> "Space":
        """Returns the space that a client names; masks in normalized space have the size of the model's image."""
        if name == "original":
            height, width = segmentation.original_hw
        else:
            height, width = segmentation.input_image.shape[:2]
        return cls(width, height, normalized=name == "normalized")

    def pixel_box(self, box_xyxy: Box) -> list[int]:
        """Returns a box, given in [0, 1], in whole pixels."""
        return pixel_coordinates(box_xyxy, width=self.width, height=self.height)

    def coordinates(self, box_xyxy: Box) -> list[int] | list[float]:
        """Returns a box, given in [0, 1], in this space."""
        if self.normalized:
            return [round(value, NORMALIZED_DECIMALS) for value in box_xyxy]
        return self.pixel_box(box_xyxy)

    def ring(self, box_xyxy: Box, outline: NDArray[np.float64]) -> Ring:
        """Converts an outline float[N, 2] (x, y in [0, 1] of the box) to this space, without repeated points."""
        x_min, y_min, x_max, y_max = box_xyxy
        points = np.array([x_min, y_min]) + outline * np.array([x_max - x_min, y_max - y_min])
        if self.normalized:
            points = points.round(NORMALIZED_DECIMALS)
        else:
            points = (points * [self.width, self.height]).round(PIXEL_DECIMALS)
        moved = np.any(points[1:] != points[:-1], axis=1)
        kept = points[np.concatenate([[True], moved])]
        return [(x, y) for x, y in kept.tolist()]
