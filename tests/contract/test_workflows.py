"""What the workflows do with commits that come quickly, one after the other."""

import re
from pathlib import Path
from typing import Any

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


def steps_of(workflow: str, job: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load((WORKFLOWS / f"{workflow}.yml").read_text())["jobs"][job]["steps"])


def test_what_is_tested_is_what_is_published() -> None:
    """Built once and pushed without a tag; tested by digest; then the same digests are tagged."""
    jobs = yaml.safe_load((WORKFLOWS / "docker-build.yml").read_text())["jobs"]
    (build,) = [
        step["with"] for step in steps_of("docker-build", "build") if "build-push-action" in step.get("uses", "")
    ]
    assert "push-by-digest=true" in build["outputs"]
    assert "tags" not in build
    assert jobs["test"]["needs"] == "build"
    assert set(jobs["publish"]["needs"]) == {"build", "test"}
    (pull,) = [step["run"] for step in steps_of("docker-build", "test") if "docker pull" in step.get("run", "")]
    assert "@sha256:$digest" in pull
    (test,) = [step for step in steps_of("docker-build", "test") if "container_test" in step.get("run", "")]
    assert test["env"]["BUILD"] == "${{ env.PUSH == 'true' && 'off' || 'on' }}"


def test_a_release_builds_nothing() -> None:
    """It waits for the tests of the tag's commit, and signs and tags the digests that they ran on."""
    text = (WORKFLOWS / "release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert "build-push-action" not in text
    assert set(jobs["images"]["needs"]) == {"notes", "tested"}
    (sign,) = [step["run"] for step in steps_of("release", "images") if "cosign sign" in step.get("run", "")]
    assert '"$repository:$GITHUB_SHA"' in sign
    assert sign.count('"$repository@$digest"') == 3


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.stem)
def test_actions_are_pinned_and_jobs_bounded(path: Path) -> None:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        assert job["timeout-minutes"]
        for step in job["steps"]:
            assert re.search(r"@[0-9a-f]{40}$", step["uses"]) if "uses" in step else step["run"]
