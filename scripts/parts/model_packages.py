"""Makes packages of the model repository importable in scripts; each is in its model's folder, not on Python's path."""

import os
import sys
from pathlib import Path
from typing import Final, NoReturn

SCRIPTS: Final = Path(__file__).resolve().parent.parent
MODULE_PATH: Final = "PYTHONPATH"


def environment(*models: str) -> dict[str, str]:
    """This process's environment, with the scripts and the packages of these models importable."""
    folders = [SCRIPTS, *(SCRIPTS.parent / "model_repository" / model for model in models)]
    path = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(MODULE_PATH)])])
    return {**os.environ, MODULE_PATH: path}


def run_module(module: str, *models: str) -> NoReturn:
    """Replaces this process by `python -m module` with its arguments and the packages of these models importable."""
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment(*models))
