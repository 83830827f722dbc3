"""Rings, for formats that have less than all of them: which are outer ones, which is the largest, fewer points.

A ring is closed: its last point is its first. Outer rings and holes run in opposite directions.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.schemas import Ring

MIN_CORNERS: Final = 3

Points = NDArray[np.float64]


def signed_area(ring: Ring) -> float:
    """Area in square units of the ring's space, by the shoelace formula; negative for a hole."""
    x, y = np.asarray(ring).T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def outer_rings(rings: Sequence[Ring]) -> list[Ring]:
    """The rings that are no holes."""
    return [ring for ring in rings if signed_area(ring) > 0]


def largest_ring(rings: Sequence[Ring]) -> Ring | None:
    """The outer ring with the largest area; None where there is none."""
    return max(outer_rings(rings), key=signed_area, default=None)


def simplified(ring: Ring, epsilon_factor: float) -> Ring:
    """The ring with fewer points (Ramer, Douglas and Peucker); as it is where fewer than three corners would be left.

    Args:
        ring: any.
        epsilon_factor: how far a point that is left out may be from the new outline, as a share of the ring's length.
    """
    points = np.asarray(ring, np.float64)
    length = float(np.hypot(*np.diff(points, axis=0).T).sum())
    opposite = int(np.argmax(np.hypot(*(points - points[0]).T)))
    kept = np.zeros(len(points), np.bool_)
    kept[[0, opposite, -1]] = True
    spans = [(0, opposite), (opposite, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        distances = _distances(points[first + 1 : last], points[first], points[last])
        if distances.size and distances.max() > epsilon_factor * length:
            middle = first + 1 + int(np.argmax(distances))
            kept[middle] = True
            spans += [(first, middle), (middle, last)]
    corners = points[kept]
    return [(x, y) for x, y in corners.tolist()] if len(corners) > MIN_CORNERS else ring


def _distances(points: Points, start: Points, end: Points) -> Points:
    """float64[N]: how far points are from a line's part between two points."""
    along, offsets = end - start, points - start
    length_squared = float(along @ along)
    shares = np.clip(offsets @ along / length_squared, 0, 1) if length_squared else np.zeros(len(points))
    distances: Points = np.hypot(*(offsets - np.outer(shares, along)).T)
    return distances
