"""What the workflows do with commits that come quickly, one after the other."""

from pathlib import Path

import pytest
import yaml

WORKFLOWS = Path(__file__).resolve().parent.parent.parent / ".github" / "workflows"


@pytest.mark.parametrize("name", ["ci", "docker-build"])
def test_no_commit_on_main_is_dropped(name: str) -> None:
    """A group of its own for each: GitHub keeps one waiting run for each group, and drops the others."""
    concurrency = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())["concurrency"]
    assert concurrency["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"
    assert concurrency["group"].endswith("-${{ github.event_name == 'pull_request' && github.ref || github.sha }}")


def test_builds_have_a_cache_of_their_own() -> None:
    """An image and an architecture each: a shared one would be overwritten by whoever ends last."""
    jobs = yaml.safe_load((WORKFLOWS / "docker-build.yml").read_text())["jobs"]
    (build,) = [step["with"] for step in jobs["build"]["steps"] if "build-push-action" in step.get("uses", "")]
    scope = "scope=${{ matrix.image }}-${{ matrix.runner }}"
    assert scope in build["cache-from"]
    assert scope in build["cache-to"]


def test_all_versions_are_audited() -> None:
    """In a step of its own: check.sh asks no online service."""
    steps = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]["check"]["steps"]
    (audit,) = [step["run"] for step in steps if "pip-audit" in step.get("run", "")]
    assert "--requirement constraints.txt" in audit
    assert "pip-audit" not in (WORKFLOWS.parent.parent / "scripts" / "check.sh").read_text()
