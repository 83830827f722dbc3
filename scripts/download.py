"""Downloads a checkpoint and the mask decoder's weights ahead of time. Files that exist already are only checked.

    python scripts/download.py google/paligemma2-3b-mix-448 --vae

Reads the server's variables: MODELS_DIR, HF_TOKEN and the others of docs/reference/settings.md. Start it again to
resume an interrupted download.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description="Downloads what the server needs, and checks it.")
    parser.add_argument("model_id", nargs="?", help="org/name or org/name@revision on the hub")
    parser.add_argument("--vae", action="store_true", help="the mask decoder's weights, too")
    arguments = parser.parse_args()
    if arguments.model_id is None and not arguments.vae:
        parser.error("nothing to download: name a model, or --vae")
    status = 0
    if arguments.model_id is not None:
        status = run("paligemma", "paligemma_engine", arguments.model_id)
    if arguments.vae and status == 0:
        status = run("mask_decoder", "mask_vae")
    return status


def run(model: str, package: str, *arguments: str) -> int:
    """Runs a package of the model repository as Triton does: with the model's folder on its path."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY / "model_repository" / model),
        "MODELS_DIR": os.environ.get("MODELS_DIR") or os.environ.get("MODEL_DIR") or str(REPOSITORY / "models"),
    }
    return subprocess.run([sys.executable, "-m", package, *arguments], env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
