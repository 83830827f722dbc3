"""The scripts that people start by hand start from a plain shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stack import REPOSITORY

SCRIPTS = ("train_vae", "train_paligemma", "evaluate", "gpu_benchmark", "download", "verify", "inference_sdk")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str) -> None:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, f"scripts/{name}.py", "--help"]
    shown = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert "usage:" in shown.stdout


def test_the_image_holds_what_verify_needs(tmp_path: Path) -> None:
    """Only what Dockerfile.triton copies, laid out as in the image."""
    for line in (REPOSITORY / "Dockerfile.triton").read_text().splitlines():
        if line.startswith(("COPY scripts/", "COPY docs/", "COPY model_repository")):
            *sources, target = line.split()[1:]
            for source in sources:
                place = tmp_path / target.lstrip("/")
                if (REPOSITORY / source).is_dir():
                    shutil.copytree(REPOSITORY / source, place)
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(REPOSITORY / source, place)
    app = tmp_path / "app"
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MODELS_DIR")}
    command = [sys.executable, "scripts/verify.py", "--server", "127.0.0.1:1"]
    environ |= {"MODEL_ID": "paligemma2-demo-224", "MODELS_DIR": str(REPOSITORY / "models")}
    done = subprocess.run(command, cwd=app, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: no server answers at 127.0.0.1:1" in done.stderr
