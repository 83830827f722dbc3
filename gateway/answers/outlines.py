"""Rings with fewer points, for people who edit them.

A ring is closed: its last point is its first.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.schemas import Ring

MIN_CORNERS: Final = 3

Points = NDArray[np.float64]


def simplified(ring: Ring, epsilon_factor: float) -> Ring:
    """The ring with fewer points (Ramer, Douglas and Peucker); as it is where fewer than three corners would be left.

    Args:
        ring: any.
        epsilon_factor: how far a point that is left out may be from the new outline, as a share of the ring's length.
    """
    points = np.asarray(ring, np.float64)
    epsilon = epsilon_factor * float(np.hypot(*np.diff(points, axis=0).T).sum())
    farthest = int(np.argmax(np.hypot(*(points - points[0]).T)))
    kept = {0, farthest, len(points) - 1}
    spans = [(0, farthest), (farthest, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        distances = _distances(points[first + 1 : last], points[first], points[last])
        if distances.size and distances.max() > epsilon:
            middle = first + 1 + int(np.argmax(distances))
            kept.add(middle)
            spans += [(first, middle), (middle, last)]
    corners = points[sorted(kept)]
    return [(x, y) for x, y in corners.tolist()] if len(corners) > MIN_CORNERS else ring


def _distances(points: Points, start: Points, end: Points) -> Points:
    """float64[N]: how far points are from the line's part between two others."""
    along, offsets = end - start, points - start
    squared_length = float(along @ along)
    shares = np.clip(offsets @ along / squared_length, 0, 1) if squared_length else np.zeros(len(points))
    distances: Points = np.hypot(*(offsets - shares[:, None] * along).T)
    return distances
