"""Parts of the supervisor that need no server: what it advises, and what it tells Prometheus."""

import os
import urllib.request
from pathlib import Path

import pytest
from stack import free_ports

from paligemma_engine.config import HUB_CACHE_FOLDER
from serve import HUB_CACHE_FOLDER as SUPERVISORS_HUB_CACHE_FOLDER
from supervision import cures
from supervision.metrics import FAMILIES, SupervisorMetrics

USER = f"user {os.getuid()}:{os.getgid()}"


def test_too_little_shared_memory_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"/dev/shm": (8e6, 3e6, 5e6), "/roomy": (64e6, 32e6, 32e6)}
    monkeypatch.setattr(cures.shutil, "disk_usage", lambda folder: shares[str(folder)])
    problem = cures.shared_memory_problem(Path("/dev/shm"))
    assert problem is not None
    assert problem.startswith("/dev/shm has 5 MB free of 8 MB, and Triton needs 32 MB")
    assert "shm_size" in problem
    assert cures.shared_memory_problem(Path("/roomy")) is None


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ("PermissionError: [Errno 13] Permission denied: '/m/hub'", f"{USER} has no access to /m/hub: give it access"),
        (
            "failed ([Errno 30] Read-only file system: '/m/x.part')",
            f"{USER} has no access to /m/x.part: give it access",
        ),
        ("OSError: [Errno 28] No space left on device", "the disk is full: make room"),
        ("[hub_failed] cut ([Errno 122] Disk quota exceeded: '/m')", "the disk is full: make room"),
    ],
)
def test_a_failure_of_files_has_a_cure(line: str, cure: str) -> None:
    (found,) = cures.find_cures(["something else", line, line])
    assert found.startswith(cure)


def test_other_failures_speak_for_themselves() -> None:
    assert cures.find_cures(["ModelNotFound: [model_not_found] nowhere is no folder under models"]) == []


def test_prometheus_can_ask_the_supervisor(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with SupervisorMetrics("127.0.0.1", port, tmp_path / "not" / "yet") as metrics:
        metrics.restarts += 2
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            said = response.read().decode()
    samples = dict(line.split() for line in said.splitlines() if not line.startswith("#"))
    assert samples.keys() == {family.name for family in FAMILIES}
    assert samples["supervisor_restarts_total"] == "2"
    assert float(samples["supervisor_disk_free_bytes"]) > 0
    assert said.count("# TYPE") == said.count("# HELP") == len(FAMILIES)


def test_constants_that_two_packages_need_agree() -> None:
    assert SUPERVISORS_HUB_CACHE_FOLDER == HUB_CACHE_FOLDER
