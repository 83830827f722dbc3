"""Large pictures in tiles: tiles overlap, and objects that two of them show are merged.

Two objects are one where, in the area that both cuts show, their masks agree. So an object that a cut's edge divides is
joined, too, although the whole masks have little in common.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from paligemma_client import masks
from paligemma_client.masks import Box, RunLengths
from paligemma_client.objects import FoundObject, Result
from paligemma_client.pictures import encode_png, open_upright
from paligemma_client.targets import worst

OVERLAP_SHARE: Final = 0.2  # of a tile's side
MERGE_IOU: Final = 0.5
AUTO_TILE_PX: Final = 1024  # the longest side of a tile that "auto" makes
MAX_GRID: Final = 8  # tiles in a row or column
_GRID: Final = re.compile(r"([1-8])x([1-8])")


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: its place in the picture, and its encoded file."""

    box: Box
    picture: bytes


def check_tiles(tiles: str) -> None:
    """Raises ValueError if a caller's grid cannot be read."""
    if tiles != "auto" and not _GRID.fullmatch(tiles):
        raise ValueError(f"tiles must be 'auto' or columns x rows from 1x1 to {MAX_GRID}x{MAX_GRID}, and is {tiles!r}")


def cut_tiles(encoded: bytes, tiles: str) -> list[Tile]:
    """The tiles of a picture, row by row."""
    check_tiles(tiles)
    image = open_upright(encoded)
    width, height = image.size
    grid = _GRID.fullmatch(tiles)
    columns, rows = (int(grid[1]), int(grid[2])) if grid else (_fitting(width), _fitting(height))
    if columns == rows == 1:
        return [Tile((0, 0, width, height), encoded)]
    boxes = [(x[0], y[0], x[1], y[1]) for y in _spans(height, rows) for x in _spans(width, columns)]
    return [Tile(box, encode_png(image.crop(box))) for box in boxes]


def merge_tiles(tiles: Sequence[Tile], answers: Sequence[Result], *, picture: bytes) -> Result:
    """Merges the tiles' answers into one, in pixels of the whole picture."""
    width, height = max(tile.box[2] for tile in tiles), max(tile.box[3] for tile in tiles)
    merged: list[_Placed] = []
    for tile, answer in zip(tiles, answers, strict=True):
        view = masks.rectangle(tile.box, width=width, height=height)
        for found in answer.objects:
            _add(merged, _Placed(_moved(found, tile.box, width, height), view), width, height)
    objects = sorted((placed.found for placed in merged), key=lambda found: -found.score)
    first = answers[0]
    text = "\n".join(answer.text for answer in answers)
    targets = [worst(ends) for ends in zip(*(answer.targets for answer in answers), strict=False)]
    return replace(first, objects=objects, width=width, height=height, text=text, targets=targets, picture=picture)


@dataclass(frozen=True, slots=True)
class _Placed:
    """An object in the whole picture, and the area of the tiles that showed it."""

    found: FoundObject
    view: RunLengths

    def region(self, width: int, height: int) -> RunLengths:
        """The mask, or the box where there is no mask."""
        return self.found.run_lengths or masks.rectangle(self.found.box_xyxy, width=width, height=height)


def _add(merged: list[_Placed], new: _Placed, width: int, height: int) -> None:
    """Adds an object, merged with all that are the same."""
    for other in [placed for placed in merged if _same(placed, new, width, height)]:
        merged.remove(other)
        new = _joined(other, new)
    merged.append(new)


def _same(one: _Placed, other: _Placed, width: int, height: int) -> bool:
    if one.found.category != other.found.category:
        return False
    shared = masks.intersection([one.view, other.view])
    seen = [masks.intersection([placed.region(width, height), shared]) for placed in (one, other)]
    return masks.iou(*seen) >= MERGE_IOU


def _joined(one: _Placed, other: _Placed) -> _Placed:
    better = max(one.found, other.found, key=lambda found: found.score)
    boxes = np.array([one.found.box_xyxy, other.found.box_xyxy])
    (x_min, y_min), (x_max, y_max) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    parts = [found.run_lengths for found in (one.found, other.found) if found.run_lengths is not None]
    found = replace(better, box_xyxy=(x_min, y_min, x_max, y_max), run_lengths=masks.union(parts) if parts else None)
    return _Placed(found, masks.union([one.view, other.view]))


def _moved(found: FoundObject, tile: Box, width: int, height: int) -> FoundObject:
    """Moves an object of a tile into the pixels of the whole picture."""
    left, top = tile[0], tile[1]
    x_min, y_min, x_max, y_max = found.box_xyxy
    box = (x_min + left, y_min + top, x_max + left, y_max + top)
    mask = found.mask
    if mask is None:
        return replace(found, box_xyxy=box)
    whole = np.zeros((height, width), np.bool_, order="F")
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return replace(found, box_xyxy=box, run_lengths=masks.encode(whole))


def _fitting(side_px: int) -> int:
    """The number of tiles of at most AUTO_TILE_PX that a side needs."""
    count = 1
    while count < MAX_GRID and _spans(side_px, count)[0][1] > AUTO_TILE_PX:
        count += 1
    return count


def _spans(side_px: int, count: int) -> list[tuple[int, int]]:
    """Start and end (exclusive) of equal tiles that overlap by OVERLAP_SHARE of their length."""
    length = min(side_px, round(side_px / (count - (count - 1) * OVERLAP_SHARE)))
    starts = [round(index * (side_px - length) / max(1, count - 1)) for index in range(count)]
    return [(start, start + length) for start in starts]
