"""Reads a VQ-VAE checkpoint and lays its weights out for Flax."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mask_vae.errors import CheckpointError
from mask_vae.layout import CODEBOOK_KEY, DECODER_STRIDED, array_shapes

Arrays = dict[str, NDArray[np.float32]]


def load_arrays(path: Path) -> Arrays:
    """The 49 arrays of an npz file, checked for name, shape, type and finite values.

    Raises:
        CheckpointError: no such file, a damaged one, one that would need pickle, or arrays that do not fit.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; set VAE_CHECKPOINT to a file under MODELS_DIR") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path}: not a readable npz file ({error})") from error
    return {name: _checked(path, stored, name, shape) for name, shape in array_shapes().items()}


def _checked(path: Path, stored: dict[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if name not in stored:
        raise CheckpointError(f"{path}: array {name} is missing; is this a mask VQ-VAE checkpoint?")
    array = stored[name]
    if array.shape != shape:
        raise CheckpointError(f"{path}: array {name} has shape {array.shape}, expected {shape}")
    if array.dtype != np.float32:
        raise CheckpointError(f"{path}: array {name} is {array.dtype}, expected float32")
    if not np.isfinite(array).all():
        raise CheckpointError(f"{path}: array {name} holds values that are not finite")
    checked: NDArray[np.float32] = array
    return checked


def codebook(arrays: Arrays) -> NDArray[np.float32]:
    """float32[128, 512], one row for each code."""
    return arrays[CODEBOOK_KEY]


def flax_params(arrays: Arrays, half: str) -> dict[str, Any]:
    """The parameters of the `encoder` or `decoder` half as a Flax tree.

    `decoder.2.net.4.weight` becomes `layer_2 / net_4 / kernel`. Convolutions: [out, in, h, w] -> [h, w, in, out];
    transposed ones, for the matrix product that they are computed with: [in, out, h, w] -> [in, h, w, out].
    """
    transposed = {f"decoder.{position}.weight" for position in DECODER_STRIDED}
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        if not name.startswith(f"{half}."):
            continue
        _, layer, *inner, leaf = name.split(".")
        scope = tree.setdefault(f"layer_{layer}", {})
        if inner:
            scope = scope.setdefault("_".join(inner), {})
        if leaf == "weight":
            scope["kernel"] = array.transpose((0, 2, 3, 1) if name in transposed else (2, 3, 1, 0))
        else:
            scope["bias"] = array
    return tree
