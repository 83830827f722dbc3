"""`python -m paligemma_engine MODEL_ID`: downloads a checkpoint into the local cache, or completes and checks it."""

import os
import sys
from pathlib import Path

from paligemma_engine.checkpoints.files import base_of
from paligemma_engine.checkpoints.hub import download
from paligemma_engine.checkpoints.model_id import ModelId
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import EngineError


def main(model_id: str) -> str | None:
    """Returns an error message; None after a success."""
    config = EngineConfig.from_env(os.environ)
    try:
        if base := base_of(_download(model_id, config)):
            _download(base, config)
    except EngineError as error:
        return f"error: {error}"
    return None


def _download(model_id: str, config: EngineConfig) -> Path:
    folder = download(ModelId.parse(model_id), models_dir=config.models_dir, token=config.hf_token)
    sys.stdout.write(f"{model_id}: complete in {folder}\n")
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
