"""The examples of README and documentation, run as they are printed but for the ports."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import DOCUMENTS, README, REPOSITORY, REST, TENSORS, code_blocks

CURL_SEGMENT = "curl -s http://localhost:8000/segment"
CURLS = sorted(
    {block for page in DOCUMENTS for block in code_blocks(page.read_text(), "bash") if CURL_SEGMENT in block}
)


def blocks(text: str, language: str, mark: str) -> list[str]:
    return [block for block in code_blocks(text, language) if mark in block]


def on_ports_of(stack: Any, text: str) -> str:
    ports = {"8000": stack.ports.gateway, "8010": stack.ports.http, "8011": stack.ports.grpc}
    return re.sub(r"localhost:(\d+)", lambda found: f"localhost:{ports[found[1]]}", text)


def run(command: list[str], folder: Path = REPOSITORY) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_curl(stack: Any) -> None:
    (command,) = blocks(README, "bash", "curl")
    answer = json.loads(run(["bash", "-c", on_ports_of(stack, command)]))
    (printed,) = blocks(README, "json", "masks")
    assert set(json.loads(printed)) == {name for name, value in answer.items() if value is not None}
    (shown,) = json.loads(printed)["masks"]
    found = answer["masks"][0]
    assert set(shown) == set(found)
    assert (shown["label"], shown["coordinates"]) == (found["label"], found["coordinates"])
    assert (shown["score"], shown["mask_score"]) == pytest.approx((found["score"], found["mask_score"]), abs=1e-3)


def test_the_references_curl_with_run_lengths(stack: Any) -> None:
    (command,) = blocks(REST, "bash", "mask_format=rle")
    (found,) = json.loads(run(["bash", "-c", on_ports_of(stack, command)]))["masks"]
    assert found["mask"]["size"] == [480, 640]


@pytest.mark.parametrize("command", CURLS)
def test_every_curl_is_answered(stack: Any, tmp_path: Path, command: str) -> None:
    """In a folder of its own, since some write files."""
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    output = run(["bash", "-o", "pipefail", "-c", on_ports_of(stack, command)], tmp_path)
    if "overlay.png" in command:
        assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")
        return
    answer = json.loads(output)
    assert answer.get("status") != "error", answer
    assert bool(answer["masks"]) == ("red car" not in command)  # the tutorial's object that is not there


def test_rest_from_python(stack: Any) -> None:
    (program,) = blocks(REST, "python", "import requests")
    output = run([sys.executable, "-W", "error", "-c", on_ports_of(stack, program)])
    assert [line.split(" [")[0] for line in output.splitlines()] == ["blue star", "cyan ring"]
    assert all(int(line.split()[-2]) > 500 for line in output.splitlines())


@pytest.mark.parametrize("page", [README, TENSORS], ids=["readme", "reference"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_triton_from_python(stack: Any, protocol: str, page: str) -> None:
    (program,) = blocks(page, "python", "import tritonclient")
    if protocol == "http":  # as the sentence above it says
        program = program.replace("tritonclient.grpc", "tritonclient.http").replace("localhost:8011", "localhost:8010")
    output = run([sys.executable, "-c", on_ports_of(stack, program)])
    assert [line.split(" [")[0] for line in output.splitlines()] == ["blue star", "cyan ring"]
