"""The arrays of a mask VQ-VAE checkpoint: the layout of big_vision's `vae-oid.npz`, 49 float32 arrays.

Weights lie as PyTorch has them: convolutions [out, in, height, width], transposed convolutions
[in, out, height, width].
"""

from collections.abc import Iterator
from typing import Final

MASK_SIZE: Final = 64  # height and width of a mask
GRID_SIZE: Final = 4  # height and width of the grid of codes
CODES_PER_MASK: Final = GRID_SIZE * GRID_SIZE
CODEBOOK_SIZE: Final = 128
EMBEDDING_SIZE: Final = 512
HIDDEN_SIZE: Final = 128

ENCODER_WIDTHS: Final = (16, 32, 64, 128)  # four convolutions, each halves height and width
DECODER_WIDTHS: Final = (128, 64, 32, 16)  # four transposed convolutions, each doubles them
ENCODER_STRIDED: Final = (0, 2, 4, 6)  # positions in the checkpoint's layer list; ReLUs take the gaps
ENCODER_RESIDUAL: Final = (8, 9)
ENCODER_HEAD: Final = 10
DECODER_STEM: Final = 0
DECODER_RESIDUAL: Final = (2, 3)
DECODER_STRIDED: Final = (4, 6, 8, 10)
DECODER_HEAD: Final = 12
RESIDUAL_CONVS: Final = ((0, 3), (2, 3), (4, 1))  # (position in the block, kernel size)

CODEBOOK_KEY: Final = "_vq_vae._embedding"

Shape = tuple[int, ...]


def array_shapes() -> dict[str, Shape]:
    """Name and shape of each of the 49 arrays."""
    return dict(
        [
            *_strided("encoder", ENCODER_STRIDED, (1, *ENCODER_WIDTHS), transposed=False),
            *_residual("encoder", ENCODER_RESIDUAL),
            *_conv(f"encoder.{ENCODER_HEAD}", (EMBEDDING_SIZE, HIDDEN_SIZE, 1, 1)),
            *_conv(f"decoder.{DECODER_STEM}", (HIDDEN_SIZE, EMBEDDING_SIZE, 1, 1)),
            *_residual("decoder", DECODER_RESIDUAL),
            *_strided("decoder", DECODER_STRIDED, (HIDDEN_SIZE, *DECODER_WIDTHS), transposed=True),
            *_conv(f"decoder.{DECODER_HEAD}", (1, DECODER_WIDTHS[-1], 1, 1)),
            (CODEBOOK_KEY, (CODEBOOK_SIZE, EMBEDDING_SIZE)),
            ("_vq_vae._ema_cluster_size", (CODEBOOK_SIZE,)),
            ("_vq_vae._ema_w", (CODEBOOK_SIZE, EMBEDDING_SIZE)),
        ]
    )


def _conv(name: str, weight: Shape, *, transposed: bool = False) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", (weight[1 if transposed else 0],)


def _strided(half: str, positions: Shape, widths: Shape, *, transposed: bool) -> Iterator[tuple[str, Shape]]:
    for position, before, after in zip(positions, widths[:-1], widths[1:], strict=True):
        channels = (before, after) if transposed else (after, before)
        yield from _conv(f"{half}.{position}", (*channels, 4, 4), transposed=transposed)


def _residual(half: str, positions: Shape) -> Iterator[tuple[str, Shape]]:
    for position in positions:
        for inner, kernel in RESIDUAL_CONVS:
            yield from _conv(f"{half}.{position}.net.{inner}", (HIDDEN_SIZE, HIDDEN_SIZE, kernel, kernel))
