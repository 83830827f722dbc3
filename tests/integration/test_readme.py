"""The README's examples, run as they are printed but for the ports."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
README = (REPOSITORY / "README.md").read_text()


def blocks(language: str, mark: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [block for block in found if mark in block]


def on_ports_of(stack: Any, text: str) -> str:
    ports = {"8000": stack.ports.gateway, "8010": stack.ports.http, "8011": stack.ports.grpc}
    return re.sub(r"localhost:(\d+)", lambda found: f"localhost:{ports[found[1]]}", text)


def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(stack: Any) -> None:
    command, with_rle = blocks("bash", "curl")
    answer = json.loads(run(["bash", "-c", on_ports_of(stack, command)]))
    (printed,) = blocks("json", "masks")
    assert set(json.loads(printed)) == {name for name, value in answer.items() if value is not None}
    (shown,) = json.loads(printed)["masks"]
    found = answer["masks"][0]
    assert set(shown) == set(found)
    assert (shown["label"], shown["coordinates"]) == (found["label"], found["coordinates"])
    assert (shown["score"], shown["mask_score"]) == pytest.approx((found["score"], found["mask_score"]), abs=1e-3)
    (found,) = json.loads(run(["bash", "-c", on_ports_of(stack, with_rle)]))["masks"]
    assert found["mask"]["size"] == [480, 640]


def test_rest_from_python(stack: Any) -> None:
    (program,) = blocks("python", "import requests")
    output = run([sys.executable, "-W", "error", "-c", on_ports_of(stack, program)])
    assert [line.split(" [")[0] for line in output.splitlines()] == ["blue star", "cyan ring"]
    assert all(int(line.split()[-2]) > 500 for line in output.splitlines())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_triton_from_python(stack: Any, protocol: str) -> None:
    (program,) = blocks("python", "import tritonclient")
    if protocol == "http":  # as the sentence above it says
        program = program.replace("tritonclient.grpc", "tritonclient.http").replace("localhost:8011", "localhost:8010")
    output = run([sys.executable, "-c", on_ports_of(stack, program)])
    assert [line.split(" [")[0] for line in output.splitlines()] == ["blue star", "cyan ring"]
