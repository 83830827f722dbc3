"""Codes to masks and masks to codes, compiled ahead for a few object counts."""

from pathlib import Path
from typing import Any, Final, Self, cast

import jax
import numpy as np
from numpy.typing import NDArray

from mask_vae import checkpoint, layout
from mask_vae.compiled import keep_compiled
from mask_vae.config import MaskVaeConfig
from mask_vae.download import ensure_weights
from mask_vae.errors import InvalidCodes
from mask_vae.network import Decoder, Encoder
from mask_vae.threads import use_one_thread

OBJECT_BUCKETS: Final = (1, 2, 4, 8)  # object counts compiled for; more objects go in groups of the largest
NO_CODE: Final = -1
# Level 1 compiles in half the time of the default, and the code is as fast: nearly all of it is products.
_COMPILER_OPTIONS: Final = {"xla_backend_optimization_level": 1}
NO_MASK_VALUE: Final = -1.0  # background everywhere

Codes = NDArray[np.int32]
Masks = NDArray[np.float32]


class MaskVae:
    """A loaded VQ-VAE on the CPU."""

    def __init__(self, arrays: checkpoint.Arrays) -> None:
        """Takes the arrays of `checkpoint.load_arrays`; compiles nothing yet."""
        self._cpu = jax.devices("cpu")[0]
        self._codebook = self._put(checkpoint.codebook(arrays))
        self._decoder_params = self._put(checkpoint.flax_params(arrays, "decoder"))
        self._encoder_params = self._put(checkpoint.flax_params(arrays, "encoder"))
        self._decode = jax.jit(_decode, compiler_options=_COMPILER_OPTIONS)  # compiles once for each bucket
        self._encode = jax.jit(_encode)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a checkpoint; raises CheckpointError where it cannot be used."""
        return cls(checkpoint.load_arrays(path))

    @classmethod
    def start(cls, config: MaskVaeConfig) -> Self:
        """A decoder that is ready: its weights here and read, its code compiled; raises CheckpointError."""
        use_one_thread()
        if config.compiled is not None:
            keep_compiled(config.compiled)
        vae = cls.load(ensure_weights(config))
        vae.warm_up()
        return vae

    def warm_up(self) -> None:
        """Compiles and runs the decoder for every bucket, so that no request waits for a compilation."""
        for bucket in OBJECT_BUCKETS:
            self._decode_bucket(np.zeros((bucket, layout.CODES_PER_MASK), np.int32))

    def decode(self, codes: Codes) -> Masks:
        """Masks of objects.

        Args:
            codes: int32[N, 16], each row 16 codes in [0, 127] in raster order, or all -1 for an object without a mask.

        Returns:
            float32[N, 64, 64], the decoder's raw output over the area of the box, about [-1, 1] and not clipped;
            foreground is > 0. A row without a mask is all -1.

        Raises:
            InvalidCodes: wrong shape, or a row that is neither.
        """
        if codes.shape != (len(codes), layout.CODES_PER_MASK):
            raise InvalidCodes(f"codes must have shape [N, {layout.CODES_PER_MASK}], got {list(codes.shape)}")
        has_mask = ((codes >= 0) & (codes < layout.CODEBOOK_SIZE)).all(axis=1)
        if not (has_mask | (codes == NO_CODE).all(axis=1)).all():
            raise InvalidCodes(f"a row of codes must hold values in [0, {layout.CODEBOOK_SIZE - 1}], or only {NO_CODE}")
        masks = np.full((len(codes), layout.MASK_SIZE, layout.MASK_SIZE), NO_MASK_VALUE, np.float32)
        rows = np.flatnonzero(has_mask)
        for start in range(0, len(rows), OBJECT_BUCKETS[-1]):
            group = rows[start : start + OBJECT_BUCKETS[-1]]
            masks[group] = self._decode_bucket(codes[group])
        return masks

    def encode(self, masks: Masks) -> Codes:
        """Codes of masks: float32[N, 64, 64] in [0, 1], foreground 1 -> int32[N, 16] in [0, 127], raster order."""
        codes = self._encode(self._encoder_params, self._codebook, masks)
        return np.asarray(codes, np.int32)

    def _decode_bucket(self, codes: Codes) -> Masks:
        bucket = next(size for size in OBJECT_BUCKETS if size >= len(codes))
        padded = np.zeros((bucket, layout.CODES_PER_MASK), np.int32)
        padded[: len(codes)] = codes
        masks = self._decode(self._decoder_params, self._codebook, padded)
        return np.asarray(masks)[: len(codes)]

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._cpu)


def _decode(params: Any, codebook: jax.Array, codes: jax.Array) -> jax.Array:
    vectors = codebook[codes].reshape(-1, layout.GRID_SIZE, layout.GRID_SIZE, layout.EMBEDDING_SIZE)
    masks = cast(jax.Array, Decoder().apply({"params": params}, vectors))
    return masks[..., 0]


def _encode(params: Any, codebook: jax.Array, masks: jax.Array) -> jax.Array:
    """The nearest entry of the codebook for each of the 16 vectors, by squared distance."""
    centred = 2.0 * (masks[..., None] - 0.5)
    vectors = cast(jax.Array, Encoder().apply({"params": params}, centred))
    flat = vectors.reshape(-1, layout.EMBEDDING_SIZE)
    distances = (flat**2).sum(1, keepdims=True) - 2.0 * flat @ codebook.T + (codebook**2).sum(1)
    return distances.argmin(axis=1).reshape(-1, layout.CODES_PER_MASK)
