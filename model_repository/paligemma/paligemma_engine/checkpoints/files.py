"""Reads a checkpoint's small files and headers, without its weights."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors

from paligemma_engine.checkpoints.model_id import ModelId
from paligemma_engine.errors import ModelFailed, ModelNotAllowed

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
WEIGHTS_INDEX: Final = "model.safetensors.index.json"  # of a sharded checkpoint
ADAPTER_CONFIG: Final = "adapter_config.json"  # of a LoRA adapter in PEFT's format, which has no config.json
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
MODEL_TYPE: Final = "paligemma"  # of PaliGemma 1 and 2; they differ in the text model
DEFAULT_TEXT_MODEL: Final = "gemma"  # transformers' own, where a config.json names none

# safetensors' names of number formats, and PyTorch's: https://huggingface.co/docs/safetensors/metadata_parsing
_FLOATS: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_DTYPE_KEYS: Final = ("dtype", "torch_dtype")  # in config.json; the second one before transformers 5


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The folders of a checkpoint's files.

    Attributes:
        folder: the checkpoint's folder, or its base's if there is an adapter.
        adapter: folder of the adapter, None for none.
    """

    folder: Path
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class CheckpointSize:
    """Size of a checkpoint.

    Attributes:
        numbers: count of its weights; a lower bound before the download.
        weight_bytes: size of their files.
        download_bytes: size of the files that are not in the local cache.
    """

    numbers: int
    weight_bytes: int
    download_bytes: int = 0


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter instead of a checkpoint."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG).is_file()


def base_of(folder: Path) -> str | None:
    """The id of the checkpoint that an adapter belongs to; None for a folder that holds no adapter.

    Raises:
        ModelFailed: the adapter names a path of the machine that it was trained on.
    """
    if not is_adapter(folder):
        return None
    base = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path"))
    try:
        return str(ModelId.parse(base))
    except ModelNotAllowed:
        raise ModelFailed(
            f"the adapter's base {base} is neither a hub id nor a folder's name; set it in {ADAPTER_CONFIG}"
        ) from None


def check_architecture(name: str, folder: Path) -> None:
    """Raises ModelFailed if a folder's config.json is missing, broken, or of another architecture."""
    if is_adapter(folder):  # its base is checked
        return
    model_type = read_json(folder / CONFIG).get("model_type")
    if model_type != MODEL_TYPE:
        raise ModelFailed(f"{name} is a {model_type} checkpoint; this server serves PaliGemma")


def text_model_of(folder: Path) -> str:
    """Transformers' name of a checkpoint's text model: `gemma` in PaliGemma 1, `gemma2` in PaliGemma 2."""
    return str(read_json(folder / CONFIG).get("text_config", {}).get("model_type", DEFAULT_TEXT_MODEL))


def missing_weights(folder: Path) -> str | None:
    """Returns the name of a missing safetensors file; None if all are there."""
    if is_adapter(folder):
        return None if (folder / ADAPTER_WEIGHTS).is_file() else ADAPTER_WEIGHTS
    return next((name for name in _weight_files(folder) if not (folder / name).is_file()), None)


def _weight_files(folder: Path) -> list[str]:
    """Returns the names of the files with a checkpoint's weights; the folder may have others."""
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return [WEIGHTS]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelFailed(f"{WEIGHTS_INDEX} lists no weights")
    return sorted(set(weight_map.values()))


def size_of(folder: Path) -> CheckpointSize:
    """Size of a checkpoint's weights, from the headers of their files.

    Raises:
        ModelFailed: a file cannot be read.
    """
    files = [folder / name for name in _weight_files(folder)]
    return CheckpointSize(
        numbers=sum(_numbers_in(file).total() for file in files),
        weight_bytes=sum(file.stat().st_size for file in files),
    )


def stored_dtype(folder: Path) -> str | None:
    """PyTorch's name of the number format that most of a checkpoint's weights are stored in.

    From the headers of their files; before these are there, from config.json; None where that does not say either.

    Raises:
        ModelFailed: a file cannot be read.
    """
    files = [folder / name for name in _weight_files(folder)]
    if not all(file.is_file() for file in files):
        config = read_json(folder / CONFIG)
        return next((str(config[key]) for key in _DTYPE_KEYS if config.get(key)), None)
    stored = sum((_numbers_in(file) for file in files), Counter[str]())
    floats = [name for name, _ in stored.most_common() if name in _FLOATS]
    return _FLOATS[floats[0]] if floats else None


def is_quantized(folder: Path) -> bool:
    """Whether a checkpoint's own weights are quantised already."""
    return "quantization_config" in read_json(folder / CONFIG)


def _numbers_in(file: Path) -> Counter[str]:
    """How many numbers of each of safetensors' formats."""
    numbers: Counter[str] = Counter()
    try:
        with safetensors.safe_open(file, "numpy") as weights:
            for tensor in (weights.get_slice(name) for name in weights.keys()):  # noqa: SIM118
                numbers[tensor.get_dtype()] += math.prod(tensor.get_shape())
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelFailed(f"{file.name} cannot be read ({type(error).__name__})") from error
    return numbers


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object of a JSON file, {} if it has another type; raises ModelFailed if it is not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFailed(f"{path.name} cannot be read ({type(error).__name__})") from error
    return content if isinstance(content, dict) else {}
