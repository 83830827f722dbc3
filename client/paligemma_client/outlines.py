"""Masks to polygons.

A ring is int64[N, 2], x and y of the corners of pixels; its last point is followed by its first. Rings are filled by
the even-odd rule: a hole is a ring inside another one. Without simplification they enclose exactly the mask's pixels.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int64]

MIN_RING_POINTS: Final = 3
_STEPS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))  # x, y of right, down, left, up: each is the last one turned right
_TURNS: Final = (1, 0, 3)  # right, straight on, left: pixels that touch at a corner only are kept apart


def rings_of(mask: NDArray[np.bool_], *, tolerance_px: float = 0.0) -> list[Ring]:
    """The outlines of bool[H, W]; outer ones run clockwise on the screen, holes the other way round.

    Args:
        mask: foreground is True.
        tolerance_px: how far a ring may be from the pixels' edges; 0 is exact.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    cut = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    rings = [ring + np.array([left, top]) for ring in _trace(cut)]
    return [simplify(ring, tolerance_px) for ring in rings] if tolerance_px > 0 else rings


def signed_area(ring: Ring) -> float:
    """Square pixels, positive for an outer ring, negative for a hole (the shoelace formula)."""
    following = np.roll(ring, -1, axis=0)
    return float(np.sum(ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1])) / 2


def simplify(ring: Ring, tolerance_px: float) -> Ring:
    """The ring with fewer points, none of the others farther off than the tolerance (Ramer, Douglas and Peucker).

    A ring that would have fewer than three points stays as it is.
    """
    far = int(np.argmax(np.sum((ring - ring[0]) ** 2, axis=1)))
    closed = np.concatenate([ring, ring[:1]])
    kept = np.zeros(len(closed), np.bool_)
    kept[[0, far]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:  # noqa: PLR2004 (no point in between)
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        worst = int(np.argmax(distances))
        if distances[worst] > tolerance_px:
            middle = first + 1 + worst
            kept[middle] = True
            spans += [(first, middle), (middle, last)]
    simplified = closed[:-1][kept[:-1]]
    return simplified if len(simplified) >= MIN_RING_POINTS else ring


def joined(rings: list[Ring]) -> Ring:
    """One ring through all of them, for formats that have one for an object: each is entered at its nearest point."""
    whole, *others = rings
    for ring in others:
        gaps = np.sum((whole[:, None, :] - ring[None, :, :]) ** 2, axis=2)
        at, entry = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
        detour = np.roll(ring, -int(entry), axis=0)
        whole = np.concatenate([whole[: at + 1], detour, detour[:1], whole[at:]])
    return whole


def _distances(points: Ring, start: Ring, end: Ring) -> NDArray[np.float64]:
    """float64[N]: how far points are from the line between two others; from the first one where both are the same."""
    along, offsets = (end - start).astype(np.float64), (points - start).astype(np.float64)
    length = float(np.hypot(along[0], along[1]))
    if length == 0:
        return np.hypot(offsets[:, 0], offsets[:, 1])
    crosses: NDArray[np.float64] = np.abs(along[0] * offsets[:, 1] - along[1] * offsets[:, 0])
    return crosses / length


def _trace(mask: NDArray[np.bool_]) -> list[Ring]:
    """Follows the pixels' edges with the foreground at the right hand."""
    edges = _edges(mask)
    starts = [tuple(start) for start in np.argwhere(edges[0]).tolist()]  # every ring has an edge to the right
    rings = []
    for y, x in starts:
        if edges[0, y, x]:
            rings.append(_follow(edges, x, y))
    return rings


def _edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool[4, H + 1, W + 1]: whether an edge leaves a corner to the right, down, to the left, or up."""
    padded = np.pad(mask, 1)
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    diagonal = padded[:-1, :-1]  # the four pixels around a corner
    return np.stack([inside & ~above, left & ~inside, diagonal & ~left, above & ~diagonal])


def _follow(edges: NDArray[np.bool_], x: int, y: int) -> Ring:
    """One ring from a corner with an edge to the right; takes its edges away."""
    corners: list[tuple[int, int]] = []
    start, heading, last = (x, y), 0, -1
    while True:
        edges[heading, y, x] = False
        if heading != last:
            corners.append((x, y))
        last = heading
        x, y = x + _STEPS[heading][0], y + _STEPS[heading][1]
        turned = next((heading + turn for turn in _TURNS if edges[(heading + turn) % 4, y, x]), None)
        if turned is None:
            assert (x, y) == start
            return np.array(corners, np.int64)
        heading = turned % 4
