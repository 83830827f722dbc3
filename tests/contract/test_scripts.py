"""The scripts that people start by hand start from a plain shell."""

import os
import subprocess
import sys

import pytest
from stack import REPOSITORY


@pytest.mark.parametrize("name", ["train_vae", "train_paligemma", "evaluate", "gpu_benchmark", "download", "verify"])
def test_help(name: str) -> None:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, f"scripts/{name}.py", "--help"]
    shown = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert "usage:" in shown.stdout
