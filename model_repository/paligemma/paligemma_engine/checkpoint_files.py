"""What the files of a checkpoint say before any weight is read."""

import json
from pathlib import Path
from typing import Any, Final

from paligemma_engine.errors import ModelFailed

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
WEIGHTS_INDEX: Final = "model.safetensors.index.json"  # of a sharded checkpoint
MODEL_TYPE: Final = "paligemma"  # PaliGemma 1 and 2 alike; they differ in their text model


def check_architecture(name: str, folder: Path) -> None:
    """Raises ModelFailed where a folder's config.json is missing, broken, or of another architecture."""
    model_type = _read_json(folder / CONFIG).get("model_type")
    if model_type != MODEL_TYPE:
        raise ModelFailed(f"{name} is a {model_type} checkpoint; this server serves PaliGemma")


def missing_weights(folder: Path) -> str | None:
    """The name of a safetensors file that is not there, None for a folder with all of them."""
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return None if (folder / WEIGHTS).is_file() else WEIGHTS
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelFailed(f"{WEIGHTS_INDEX} lists no weights")
    return next((shard for shard in sorted(set(weight_map.values())) if not (folder / shard).is_file()), None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFailed(f"{path.name} cannot be read ({type(error).__name__})") from error
    return content if isinstance(content, dict) else {}
