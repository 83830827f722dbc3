"""Prints the notes of a release: the section of CHANGELOG.md for the version of a tag.

    python scripts/release_notes.py v1.2.3

Fails where the tag, pyproject.toml and the chart do not have the same version, or the section is missing.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="release_notes.py", description="Prints the notes of a release.")
    parser.add_argument("tag", help="such as v1.2.3")
    parser.add_argument("--repository", type=Path, default=REPOSITORY, help="the checkout to read")
    arguments = parser.parse_args()
    problem, notes = find_notes(arguments.repository, arguments.tag)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(notes)
    return 0


def find_notes(repository: Path, tag: str) -> tuple[str, str]:
    """Returns what is wrong (or nothing), and the notes."""
    version = tag.removeprefix("v")
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    chart = (repository / "deploy" / "kubernetes" / "paligemma" / "Chart.yaml").read_text()
    for name, stated in (
        ("pyproject.toml", project),
        *(("Chart.yaml", found) for found in re.findall(r"^(?:version|appVersion): (\S+)", chart, re.MULTILINE)),
    ):
        if stated != version:
            return f"the tag is {tag}, and {name} has version {stated}; set both to the same version", ""
    changelog = (repository / "CHANGELOG.md").read_text()
    section = re.search(rf"^## \[{re.escape(version)}\].*?\n(.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    if section is None or not section[1].strip():
        return f"CHANGELOG.md has no section for {version}; rename [Unreleased]", ""
    return "", section[1].strip()


if __name__ == "__main__":
    sys.exit(main())
