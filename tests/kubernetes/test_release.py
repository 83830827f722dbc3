"""What a release is made of: its notes, and the chart that names its images."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from charts import RELEASE, helm, pods, run_helm
from stack import REPOSITORY

TRITON, GATEWAY = (f"sha256:{letter * 64}" for letter in "ab")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chart")
    environ = {**os.environ, "PATH": f"{Path(helm()).parent}:{os.environ['PATH']}"}
    command = [str(REPOSITORY / "scripts" / "release_chart.sh"), "someone", TRITON, GATEWAY, str(folder)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_plain_objects_name_the_images_by_digest(released: Path) -> None:
    for name in ("kubernetes-gpu.yaml", "kubernetes-cpu.yaml"):
        objects = [found for found in yaml.safe_load_all((released / name).read_text()) if found]
        images = {container["image"] for found in pods(objects) for container in found.containers}
        assert images == {
            f"someone/paligemma-image-segmentation-triton@{TRITON}",
            f"someone/paligemma-image-segmentation-gateway@{GATEWAY}",
        }


def test_the_package_works_without_the_repository(released: Path, tmp_path: Path) -> None:
    """The alerts are a link in the repository, and a file in the package."""
    (package,) = released.glob("paligemma-*.tgz")
    moved = shutil.copy(package, tmp_path)
    with tarfile.open(moved) as archive:
        assert all(member.isfile() for member in archive.getmembers())
    done = run_helm("template", RELEASE, str(moved), "--set", "monitoring.enabled=true")
    assert "alert: NoCapacity" in done.stdout
    assert f"image: someone/paligemma-image-segmentation-triton@{TRITON}" in done.stdout


def checkout(folder: Path, changelog: str, chart: str = "1.2.3") -> Path:
    (folder / "deploy" / "kubernetes" / "paligemma").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    chart_text = f"version: 1.2.3 # of the chart\nappVersion: {chart}\n"
    (folder / "deploy" / "kubernetes" / "paligemma" / "Chart.yaml").write_text(chart_text)
    (folder / "CHANGELOG.md").write_text(changelog)
    return folder


def notes(folder: Path, tag: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(REPOSITORY / "scripts" / "release_notes.py"), tag, "--repository", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


CHANGELOG = (
    "# Changelog\n\n## [Unreleased]\n\n- C\n\n## [1.2.3] - 2026-12-01\n\n### Added\n\n- B\n\n## [1.2.2]\n\n- A\n"
)


def test_the_notes_are_the_versions_section(tmp_path: Path) -> None:
    assert notes(checkout(tmp_path, CHANGELOG), "v1.2.3").stdout == "### Added\n\n- B\n"


@pytest.mark.parametrize(
    ("tag", "changelog", "chart", "problem"),
    [
        ("v1.2.4", CHANGELOG, "1.2.3", "the tag is v1.2.4, and pyproject.toml has version 1.2.3"),
        ("v1.2.3", CHANGELOG, "1.2.2", "the tag is v1.2.3, and Chart.yaml has version 1.2.2"),
        ("v1.2.3", "## [Unreleased]\n\n- B\n", "1.2.3", "CHANGELOG.md has no section for 1.2.3"),
    ],
)
def test_a_release_that_does_not_fit_together_is_refused(
    tmp_path: Path, tag: str, changelog: str, chart: str, problem: str
) -> None:
    done = notes(checkout(tmp_path, changelog, chart), tag)
    assert done.returncode == 1
    assert problem in done.stderr
