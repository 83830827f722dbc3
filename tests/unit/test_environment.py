"""environment.sh: what it installs and when, with a stand-in for pip in a folder that is thrown away."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stack import REPOSITORY

PYPROJECT = """
[dependency-groups]
triton = ["torch==2.0"]
dev = ["ruff==1.0"]
local-triton = ["nvidia-pytriton==0.7.0"]
"""
# pip writes down what it was asked for, and lays out what the package of Triton holds; the rest is Python.
FAKE_PYTHON = """#!/usr/bin/env bash
if [ "$1 $2" != "-m pip" ]; then exec "{python}" "$@"; fi
shift 2
echo "$*" >>"{log}"
while [ $# -gt 1 ] && [ "$1" != --target ]; do shift; done
if [ "$1" = --target ]; then
  for version in 3.10 3.11 3.12; do mkdir -p "$2/pytriton/tritonserver/python_backend_stubs/$version"; done
  mkdir -p "$2"/pytriton/tritonserver/bin "$2"/pytriton/tritonserver/backends/python
  touch "$2"/pytriton/tritonserver/bin/tritonserver
  for folder in "$2"/pytriton/tritonserver/python_backend_stubs/*; do touch "$folder/triton_python_backend_stub"; done
fi
[ ! -e "{log}.broken" ]
"""


class Folder:
    """A checkout with an environment whose pip is a stand-in."""

    def __init__(self, path: Path) -> None:
        self.path, self.log = path, path / "pip.log"
        (path / "scripts" / "parts").mkdir(parents=True)
        for name in ("environment.sh", "host.sh"):
            shutil.copy(REPOSITORY / "scripts" / "parts" / name, path / "scripts" / "parts")
        (path / "constraints.txt").write_text("")
        self.write_pins(PYPROJECT)
        self.write_program(".venv/bin/python", FAKE_PYTHON.format(python=sys.executable, log=self.log))

    def write_pins(self, text: str) -> None:
        (self.path / "pyproject.toml").write_text(text)

    def write_program(self, name: str, text: str) -> None:
        program = self.path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        script = f"set -euo pipefail; . scripts/parts/environment.sh; {command}"
        path = f"{self.path}/bin:/usr/bin:/bin"
        environ = {**{key: value for key, value in os.environ.items() if key != "PYTHON"}, "PATH": path, **variables}
        return subprocess.run(
            ["bash", "-c", script], cwd=self.path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    def installs(self, command: str) -> list[str]:
        """What pip is asked to install by a command that must succeed, pip itself left out."""
        self.log.write_text("")
        done = self.run(command)
        assert done.returncode == 0, done.stderr
        asked = [line.split("--constraint constraints.txt ")[1] for line in self.log.read_text().splitlines()]
        return [words for words in asked if "pip>=" not in words]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_groups_are_installed_once(folder: Folder) -> None:
    assert folder.installs("prepare_environment triton") == ["--group triton"]
    assert folder.installs("prepare_environment triton") == []
    assert folder.installs("prepare_environment triton dev") == ["--group triton --group dev"]
    assert folder.installs("prepare_environment triton") == []
    assert folder.installs("prepare_environment dev") == []
    folder.write_pins(f"{PYPROJECT}\n[tool.ruff]\nline-length = 99\n")
    assert folder.installs("prepare_environment triton dev") == [], "no pin has changed"


def test_pins_that_went_back_are_installed_again(folder: Folder) -> None:
    """The older pins were installed once, but what is there now is newer."""
    for _ in range(2):
        folder.installs("prepare_environment triton")
    folder.write_pins(PYPROJECT.replace("torch==2.0", "torch==2.1"))
    assert folder.installs("prepare_environment triton") == ["--group triton"]
    folder.write_pins(PYPROJECT)
    assert folder.installs("prepare_environment triton") == ["--group triton"]


def test_an_installation_that_was_cut_off_is_not_taken_for_whole(folder: Folder) -> None:
    for _ in range(2):
        folder.installs("prepare_environment triton")
    folder.write_pins(PYPROJECT.replace("torch==2.0", "torch==2.1"))
    broken = folder.path / "pip.log.broken"
    broken.touch()
    failed = folder.run("prepare_environment triton")
    assert failed.returncode == 1
    assert "pip could not install what pyproject.toml lists" in failed.stderr
    broken.unlink()
    folder.write_pins(PYPROJECT)
    assert folder.installs("prepare_environment triton") == ["--group triton"]


def test_the_packaged_triton_follows_its_pin(folder: Folder) -> None:
    (once,) = folder.installs("prepare_triton")
    assert once.endswith("--group local-triton")
    assert (folder.path / ".triton" / "bin" / "tritonserver").stat().st_mode & 0o111
    assert folder.installs("prepare_triton") == []
    folder.write_pins(PYPROJECT.replace("0.7.0", "0.8.0"))
    assert len(folder.installs("prepare_triton")) == 1
    assert folder.installs("prepare_triton") == []


def test_the_packaged_triton_follows_the_interpreter(folder: Folder) -> None:
    """Its wrapper names the library folder of the Python that it was unpacked with, which may have moved."""
    folder.installs("prepare_triton")
    shebang, rest = FAKE_PYTHON.format(python=sys.executable, log=folder.log).split("\n", 1)
    moved = "if [[ $* == *_base_executable* ]]; then echo /elsewhere/python3.11; exit; fi"
    folder.write_program(".venv/bin/python", f"{shebang}\n{moved}\n{rest}")
    assert len(folder.installs("prepare_triton")) == 1
    assert folder.installs("prepare_triton") == []
