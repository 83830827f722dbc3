"""demo.sh on a Debian without Python, from a fresh clone: what it fetches, what it says, and that it serves."""

import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from containers import docker
from python_archive import LIST, PythonMirror
from stack import REPOSITORY, Ports

DEBIAN = "debian:bookworm-slim"
GLIBC = (2, 36)  # of that Debian
DEMO = "mkdir /clone && tar -xf /lent/clone.tar -C /clone && cd /clone && exec ./scripts/demo.sh --once"
INSTALL_TIMEOUT_S = 1800


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the containers see at /lent: the clone, uv, and a mirror with the Python of these tests."""
    folder = tmp_path_factory.mktemp("lent")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=REPOSITORY)
    tar = ["tar", "--create", "--file", str(folder / "clone.tar"), "--null", "--files-from", "-"]
    subprocess.run(tar, input=files, cwd=REPOSITORY, check=True)
    (uv,) = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]["private-python"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "uv"), uv]
    subprocess.run(pip, check=True)
    PythonMirror(folder / "mirror")
    return folder


def demo(lent: Path, *options: str, uv: bool = True) -> str:
    """All that it writes."""
    volumes = [f"--volume={lent}:/lent:ro"]
    if uv:
        volumes.append(f"--volume={lent}/uv/bin/uv:/usr/local/bin/uv:ro")
    command = ("run", "--rm", *volumes, *options, DEBIAN, "bash", "-c", DEMO)
    return docker(*command, check=False, timeout_s=INSTALL_TIMEOUT_S)


def lent_python() -> list[str]:
    """Options for uv to take the Python of these tests, where that can run on an older system than this one."""
    if tuple(map(int, platform.libc_ver()[1].split("."))) > GLIBC:
        return []
    library = f"/clone/.tools/python/{PythonMirror.installed_as}/lib"  # where the archive's own libraries are
    return [
        "--env=UV_PYTHON_INSTALL_MIRROR=file:///lent/mirror",
        f"--env=UV_PYTHON_DOWNLOADS_JSON_URL=/lent/mirror/{LIST}",
        f"--env=LD_LIBRARY_PATH={library}",
    ]


def index_of_this_machine() -> list[str]:
    """Options for pip to install from where this machine does."""
    options = []
    for name, value in os.environ.items():
        if name.startswith("PIP_"):
            options.append(f"--env={name}={value}")
            if Path(value).is_absolute() and Path(value).exists():
                options.append(f"--volume={value}:{value}:ro")
    return options


def test_without_uv_it_says_what_to_install(lent: Path) -> None:
    said = demo(lent, "--network=none", uv=False)
    assert said.startswith("error: Python 3.11 with its shared library and venv was not found, and neither was uv")
    assert "Install uv (https://docs.astral.sh/uv)" in said
    assert "apt-get install python3.11 python3.11-venv libpython3.11" in said


def test_without_a_network_it_says_how_to_do_without(lent: Path) -> None:
    said = demo(lent, "--network=none")
    assert "Python 3.11 was not found: uv fetches one into .tools" in said
    assert "error: uv could not fetch Python 3.11" in said
    assert "set UV_PYTHON_INSTALL_MIRROR to a mirror that is reached" in said


@pytest.mark.skipif(not lent_python(), reason="this machine's Python cannot run in an older Debian")
def test_without_an_index_it_says_so(lent: Path) -> None:
    said = demo(lent, "--network=none", *lent_python())
    assert "Installed Python 3.11" in said
    assert "error: pip could not reach its package index: check the network, or set PIP_INDEX_URL" in said


def test_with_both_it_serves(lent: Path) -> None:
    """Python, all packages and a Triton server are fetched, and the sample is segmented."""
    ports = [f"--env={name}={value}" for name, value in Ports.free().environ().items()]
    said = demo(lent, "--network=host", *ports, *index_of_this_machine(), *lent_python())
    print(said)
    for phase in ("environment", "tritonserver", "triton", "gateway"):
        assert re.search(rf"^{phase} +ready in +[0-9.]+ s", said, re.MULTILINE), phase
    assert len(re.findall(r"^(green diamond|blue star|yellow heart|cyan ring) +(?:\d+ +){4}0\.", said, re.M)) == 4
    assert "overlay        /clone/.run/overlay.png" in said
