"""Parts of the supervisor that need no server: what it counts, what it advises, and what it tells Prometheus."""

import contextlib
import http.client
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from stack import free_ports

import serve
from paligemma_engine.config import HUB_CACHE_FOLDER
from paligemma_engine.scheduling.heartbeat import Heartbeat
from parts.serve import cures, heartbeats
from parts.serve.metrics import FAMILIES, SupervisorMetrics
from parts.serve.processes import is_stub
from parts.serve.server import ServerFailed
from serve import HUB_CACHE_FOLDER as SUPERVISORS_HUB_CACHE_FOLDER

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


def test_a_health_check_can_ask_the_supervisor(tmp_path: Path) -> None:
    (port,) = free_ports(1)

    def status(path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        with contextlib.closing(connection):
            return connection.getresponse().status

    with SupervisorMetrics("127.0.0.1", port, tmp_path) as metrics:
        assert (status("/ready"), status("/elsewhere")) == (503, 404)
        metrics.ready = True
        assert status("/ready") == 200


def test_constants_that_two_packages_need_agree() -> None:
    assert SUPERVISORS_HUB_CACHE_FOLDER == HUB_CACHE_FOLDER


def test_a_heartbeat_ages_by_a_clock_that_nobody_sets(tmp_path: Path) -> None:
    """Files look an hour old when a host has slept, or when a time server has set its clock."""
    beating = Heartbeat(tmp_path, "gpu-0")
    beating.beat(3)
    os.utime(tmp_path / "engine-gpu-0", (0, 0))
    assert abs(heartbeats.ages_s(tmp_path)["gpu-0"]) < 60
    assert heartbeats.unanswered(tmp_path) == 3
    beating.close()
    assert heartbeats.ages_s(tmp_path) == {}


def test_an_engine_hears_that_its_server_is_to_stop(tmp_path: Path) -> None:
    beating = Heartbeat(tmp_path, "gpu-0")
    assert not beating.told_to_stop()
    heartbeats.say_stopping(tmp_path)
    assert beating.told_to_stop()
    assert not Heartbeat(None, "gpu-0").told_to_stop()
    beating.close()


def test_a_heartbeat_file_that_is_still_empty_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "engine-0").touch()
    Heartbeat(tmp_path, "1").beat(2)
    assert heartbeats.ages_s(tmp_path).keys() == {"1"}
    assert heartbeats.unanswered(tmp_path) == 2


def test_a_process_that_has_vanished_is_no_stub() -> None:
    """Those that are listed with it are, and one of them may be dead."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
    assert is_stub(process) is False


class FailingServer:
    """A server that loads for so long, is ready for so long, and then fails."""

    clock_s = 0.0
    starts = 0
    load_s = ready_s = 0.0

    def __init__(self, *_: Any) -> None:
        type(self).starts += 1
        assert self.starts < 20, "it would go on for ever"

    def __enter__(self) -> "FailingServer":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_ready(self, _stop: threading.Event) -> None:
        type(self).clock_s += self.load_s

    def wait_first_answer(self, _stop: threading.Event) -> None:
        pass

    def watch(self, stop: threading.Event) -> None:
        type(self).clock_s += self.ready_s
        if self.starts == 12:
            stop.set()
        raise ServerFailed("it broke")


@pytest.mark.parametrize(("ready_s", "starts"), [(1.0, serve.MAX_FAILURES), (3600.0, 12)])
def test_failures_count_by_how_long_a_server_was_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ready_s: float, starts: int
) -> None:
    """A load of minutes is no time of health; a failure each hour is none in a row."""
    server = type("Failing", (FailingServer,), {"load_s": 600.0, "ready_s": ready_s})
    monkeypatch.setattr(serve, "Server", server)
    monkeypatch.setattr(serve, "time", SimpleNamespace(monotonic=lambda: server.clock_s))
    monkeypatch.setattr(serve, "RESTART_PAUSE_S", 0.0)
    metrics = SupervisorMetrics("127.0.0.1", None, tmp_path)
    options: Any = None
    assert serve.supervise(options, serve.Stop(), metrics, restart_wanted=True) == 1
    assert server.starts == starts
    assert metrics.ready is False
