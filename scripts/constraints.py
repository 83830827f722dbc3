"""Writes constraints.txt: the exact version of every package that the dependency groups of pyproject.toml install.

    python scripts/constraints.py            after a change of pyproject.toml, in the environment that check.sh has made
    python scripts/constraints.py --check    checks that the file matches what is installed; changes nothing

The versions are those of the environment that runs it, so that the pinned versions are those that the tests ran with.
"""

import argparse
import itertools
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PYPROJECT: Final = REPOSITORY / "pyproject.toml"
CONSTRAINTS: Final = REPOSITORY / "constraints.txt"
SEPARATE_GROUPS: Final = ("local-helm", "local-triton", "private-python")  # not in the environment; installed alone
INSTALLER: Final = "pip"
DEVICE_PACKAGES: Final = re.compile(r"(cuda|nvidia)-.*|triton")  # PyTorch's build pins their versions
HOSTS: Final = tuple(itertools.product(("3.11", "3.12"), ("x86_64", "aarch64")))  # Python, processor
LINUX: Final = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
HEADER: Final = """\
# Exact versions of everything that pyproject.toml's groups install, for pip's --constraint.
# Written by: python scripts/constraints.py
# CUDA's packages are not in it: PyTorch's builds for CPUs and for GPUs require different ones, or none, and name them.
"""

# A distribution's version and what it requires; raises PackageNotFoundError.
LookUp = Callable[[str], tuple[str, list[str]]]


class ConstraintsError(Exception):
    """The environment does not hold what pyproject.toml pins; the message says what to do."""


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="constraints.py", description="Writes constraints.txt from what is installed."
    )
    parser.add_argument("--check", action="store_true", help="only say whether the file is right")
    arguments = parser.parse_args()
    groups = tomllib.loads(PYPROJECT.read_text())["dependency-groups"]
    try:
        wanted = render(collect_versions(groups, look_up_installed))
    except ConstraintsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not arguments.check:
        CONSTRAINTS.write_text(wanted)
        return 0
    differences = set(wanted.splitlines()) ^ set(CONSTRAINTS.read_text().splitlines())
    if differences:
        names = ", ".join(sorted({line.split("==")[0] for line in differences}))
        print(
            f"error: constraints.txt does not hold what is installed: {names}; python scripts/constraints.py writes it",
            file=sys.stderr,
        )
    return 1 if differences else 0


def collect_versions(groups: dict[str, list[Any]], look_up: LookUp) -> dict[str, str]:
    """Collects what the groups install, transitive requirements included.

    Args:
        groups: pyproject.toml's table; entries that include other groups are skipped.
        look_up: returns the installed version and requirements of a distribution.

    Returns:
        Versions by normalised name, without the local part of PyTorch's builds.

    Raises:
        ConstraintsError: a package is not installed, or not in the pinned version.
    """
    pins = {name: [Requirement(line) for line in lines if isinstance(line, str)] for name, lines in groups.items()}
    separate = itertools.chain.from_iterable(pins.pop(name, []) for name in SEPARATE_GROUPS)
    versions: dict[str, str] = {canonicalize_name(pin.name): pinned_version(pin) for pin in separate}
    waiting = [*itertools.chain.from_iterable(pins.values()), Requirement(INSTALLER)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen or DEVICE_PACKAGES.fullmatch(name):
            continue
        seen.add((name, extras))
        version, required = _installed(requirement, look_up)
        versions[name] = Version(version).public
        waiting += (needed for line in required if applies(needed := Requirement(line), extras))
    return versions


def pinned_version(pin: Requirement) -> str:
    """Returns the version of a requirement that pins one version."""
    (specifier,) = pin.specifier
    return specifier.version


def applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether a distribution that is installed with these extras requires it on any of the hosts."""
    if requirement.marker is None:
        return True
    environments = [
        {**LINUX, "python_version": python, "python_full_version": f"{python}.0", "platform_machine": processor}
        for python, processor in HOSTS
    ]
    return any(
        requirement.marker.evaluate({**environment, "extra": extra})
        for environment in environments
        for extra in ("", *extras)
    )


def render(versions: dict[str, str]) -> str:
    """The file's text."""
    return HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def look_up_installed(name: str) -> tuple[str, list[str]]:
    """Returns version and requirements of a distribution in this environment."""
    found = distribution(name)
    return found.version, found.requires or []


def _installed(requirement: Requirement, look_up: LookUp) -> tuple[str, list[str]]:
    try:
        version, required = look_up(requirement.name)
    except PackageNotFoundError:
        raise ConstraintsError(f"{requirement} is not installed here; ./scripts/check.sh installs it") from None
    if not requirement.specifier.contains(version, prereleases=True):
        raise ConstraintsError(f"{requirement} is wanted and {version} is installed; ./scripts/check.sh installs it")
    return version, required


if __name__ == "__main__":
    sys.exit(main())
