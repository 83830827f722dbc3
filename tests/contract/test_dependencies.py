"""One version of everything: pyproject.toml pins what is imported, constraints.txt what comes with it."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stack import REPOSITORY

from constraints import CONSTRAINTS, ConstraintsError, collect_versions, pinned_version

GROUPS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]
SOURCES = sorted(
    path for path in subprocess.check_output(["git", "ls-files", "*.py"], cwd=REPOSITORY, text=True).split()
)
OURS = {"triton_python_backend_utils"} | {part.removesuffix(".py") for path in SOURCES for part in path.split("/")}
MODEL_GROUPS = ("triton", "quantization")
FOLDERS = {
    "gateway": ("gateway", "tracing"),
    "model_repository": MODEL_GROUPS,
    "scripts": (*MODEL_GROUPS, "gateway", "scripts", "dev"),
    "tests": tuple(GROUPS),
}


def pins(*groups: str) -> dict[str, str]:
    requirements = [Requirement(line) for group in groups for line in GROUPS[group] if isinstance(line, str)]
    return {canonicalize_name(requirement.name): pinned_version(requirement) for requirement in requirements}


def imported_modules(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_imported_is_pinned(folder: str) -> None:
    """A package that only comes with another one may leave with it."""
    sources = [(REPOSITORY / path).read_text() for path in SOURCES if path.startswith(f"{folder}/")]
    imported = {name.split(".")[0] for source in sources for name in imported_modules(source)}
    distributions, pinned = packages_distributions(), pins(*FOLDERS[folder])
    foreign = imported - sys.stdlib_module_names - OURS
    missing = {
        name for name in foreign if not pinned.keys() & {canonicalize_name(found) for found in distributions[name]}
    }
    assert missing == set()


def test_constraints_hold_every_pin() -> None:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    constraints = dict(line.split("==") for line in lines)
    assert len(constraints) == len(lines)
    assert pins(*GROUPS).items() <= constraints.items()


def test_constraints_are_for_every_index_and_host() -> None:
    text = CONSTRAINTS.read_text()
    assert not re.search(r"://|--hash|\+cpu|^(nvidia-(?!pytriton)|cuda-|triton==)", text, re.MULTILINE)


def test_everything_is_installed_with_them() -> None:
    """Scripts, images and CI."""
    workflows = (".github/workflows/ci.yml", ".github/workflows/docs.yml")
    for name in ("scripts/parts/environment.sh", "Dockerfile.gateway", "Dockerfile.triton", *workflows):
        commands = re.findall(r"pip install (?:[^\n]*\\\n)*[^\n]*", (REPOSITORY / name).read_text())
        assert commands, name
        assert all("--constraint constraints.txt" in command for command in commands), name


INSTALLED = {
    "pip": ("26.3", []),
    "server": ("1.0", ["Some_Parser>=2; python_version >= '3.12'", "extra-part; extra == 'fast'", "cuda-python"]),
    "Some_Parser": ("2.5+cpu", ["windows-only; sys_platform == 'win32'"]),
    "extra-part": ("3.0", []),
}


def look_up(name: str) -> tuple[str, list[str]]:
    if name not in INSTALLED:
        raise PackageNotFoundError(name)
    return INSTALLED[name]


def test_requirements_are_followed() -> None:
    groups = {"main": ["server[fast]==1.0", {"include-group": "other"}], "local-triton": ["nvidia-pytriton==0.7.0"]}
    assert collect_versions(groups, look_up) == {
        "extra-part": "3.0",
        "nvidia-pytriton": "0.7.0",
        "pip": "26.3",
        "server": "1.0",
        "some-parser": "2.5",
    }
    assert "extra-part" not in collect_versions({"main": ["server==1.0"]}, look_up)


@pytest.mark.parametrize(
    ("pin", "message"),
    [("server==2.0", "server==2.0 is wanted and 1.0 is installed"), ("absent==1", "absent==1 is not installed here")],
)
def test_an_environment_that_is_behind_is_refused(pin: str, message: str) -> None:
    with pytest.raises(ConstraintsError, match=re.escape(message)):
        collect_versions({"main": [pin]}, look_up)
