"""Compares Triton's mask_decoder with two decoders in this process: the project's, and one in PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mask_vae import MaskVae, layout
from mask_vae.checkpoint import Arrays, load_arrays
from mask_vae.vae import NO_CODE
from paligemma_tokens import ParsedObject, to_tensors

RANDOM_ROWS: Final = 24  # in addition to the answers' codes: more than one of the decoder's groups
RADIUS: Final = 0.95  # of half the mask's side
HOLE_RADIUS: Final = 0.45
Codes = NDArray[np.int32]
Masks = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Decoders:
    """The decoders of this process: the project's, and the arrays for the one in PyTorch."""

    vae: MaskVae
    arrays: Arrays

    @classmethod
    def load(cls, path: Path) -> Self:
        """Loads both from one file; raises CheckpointError if it cannot be used."""
        arrays = load_arrays(path)
        return cls(MaskVae(arrays), arrays)


def sample_codes(objects: Sequence[ParsedObject], shapes: Codes) -> Codes:
    """int32[N, 16]: those of answers and of known shapes, random ones, and the row of an object without a mask."""
    random_rows = np.random.default_rng(0).integers(
        0, layout.CODEBOOK_SIZE, (RANDOM_ROWS, layout.CODES_PER_MASK), np.int32
    )
    no_mask = np.full((1, layout.CODES_PER_MASK), NO_CODE, np.int32)
    return np.concatenate([to_tensors(objects).codes, shapes, random_rows, no_mask])


def known_shapes() -> Masks:
    """float32[4, 64, 64] in [0, 1]: a disc, a ring, a triangle and the left half."""
    rows, columns = np.mgrid[: layout.MASK_SIZE, : layout.MASK_SIZE] / (layout.MASK_SIZE - 1) * 2 - 1
    radius = np.hypot(rows, columns)
    disc, hole = radius < RADIUS, radius < HOLE_RADIUS
    shapes: Masks = np.stack([disc, disc & ~hole, np.abs(columns) < (rows + 1) / 2, columns < 0]).astype(np.float32)
    return shapes


def round_trip_ious(vae: MaskVae, decode: Callable[[Codes], Masks]) -> list[float]:
    """IoU of each known shape with what is decoded from its codes."""
    shapes = known_shapes()
    return [mask_iou(shape > 0, mask > 0) for shape, mask in zip(shapes, decode(vae.encode(shapes)), strict=True)]


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 if both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


@torch.inference_mode()
def decode_with_torch(arrays: Arrays, codes: Codes) -> Masks:
    """Masks float32[N, 64, 64] of codes int32[N, 16], by PyTorch's convolutions on the arrays as they are stored.

    Layers and paddings: google-research/big_vision, `big_vision/pp/proj/paligemma/segmentation.py`.
    """
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def convolve(inputs: torch.Tensor, name: str, padding: int = 0) -> torch.Tensor:
        return functional.conv2d(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    grid = (-1, layout.GRID_SIZE, layout.GRID_SIZE, layout.EMBEDDING_SIZE)
    hidden = weights[layout.CODEBOOK_KEY][torch.from_numpy(codes).long()].reshape(grid).permute(0, 3, 1, 2)
    hidden = convolve(hidden, "decoder.0").relu()
    for block in ("decoder.2.net", "decoder.3.net"):
        inner = convolve(hidden, f"{block}.0", padding=1).relu()
        inner = convolve(inner, f"{block}.2", padding=1).relu()
        hidden = hidden + convolve(inner, f"{block}.4")
    for layer in ("decoder.4", "decoder.6", "decoder.8", "decoder.10"):
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        hidden = functional.conv_transpose2d(hidden, weight, bias, stride=2, padding=1).relu()
    masks: Masks = convolve(hidden, "decoder.12")[:, 0].numpy()
    return masks
