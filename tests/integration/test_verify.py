"""verify.py against a real Triton: a right server passes; one with other weights, and none at all, do not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from PIL import Image
from stack import REPOSITORY, Ports, environment

TIMEOUT_S = 180


def verify(ports: Ports, *options: str, **overrides: str) -> subprocess.CompletedProcess[str]:
    """The command, in the environment that the stack was started in but for the overrides."""
    command = [sys.executable, "scripts/verify.py", "--clients", "8", "--rounds", "1", *options]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment(ports, overrides),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_a_right_server_passes(stack: Any, tmp_path: Path) -> None:
    """Where it listens, and which model it serves, come from the variables that it was started with."""
    done = verify(stack.ports, "--count", "4", "--json", str(tmp_path / "verified.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The server answers as it must" in done.stdout
    assert "a second time, beside the server's own" in done.stderr
    found = json.loads((tmp_path / "verified.json").read_text())
    assert found["passed"] is True
    assert found["differences"] == []
    assert (found["settings"]["dtype"], found["settings"]["compared"]) == ("float32", "exactly")
    for check in found["checks"]:
        assert check["agreed"] == check["cases"] > 0, check
        assert check["name"] in done.stdout


def test_pictures_of_the_users_own(stack: Any, tmp_path: Path) -> None:
    Image.new("RGB", (50, 90), "teal").save(tmp_path / "one.webp")
    (tmp_path / "notes.txt").write_text("no picture")
    done = verify(stack.ports, "--pictures", str(tmp_path), "--prompt", "segment blue star", "--prompt", "cap en")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out: notes.txt: [invalid_image]" in done.stderr


def test_other_weights_under_the_same_name_are_seen(stack: Any, models_dir: Path, tmp_path: Path) -> None:
    """As on a server that was not started again after its checkpoint had been replaced."""
    make_random_checkpoint(tmp_path / "other", models_dir / DEMO_MODEL_ID)
    (tmp_path / "vae-demo.npz").symlink_to(models_dir / "vae-demo.npz")
    (tmp_path / "other").rename(tmp_path / DEMO_MODEL_ID)
    file = tmp_path / "verified.json"
    options = ("--count", "2", "--max-new-tokens", "24", "--json", str(file))
    done = verify(stack.ports, *options, MODELS_DIR=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "The server does NOT answer as it must" in done.stdout
    assert "MODEL_ID (with its @revision), MODELS_DIR, DTYPE" in done.stdout
    found = json.loads(file.read_text())
    failed = {check["name"] for check in found["checks"] if not check["passed"]}
    assert {"tokens", "choices", "log-probabilities"} <= failed
    assert found["differences"][0]["served"] != found["differences"][0]["expected"]


def test_a_model_that_the_server_refuses_is_no_difference(stack: Any, models_dir: Path, tmp_path: Path) -> None:
    for name in ("vae-demo.npz", DEMO_MODEL_ID):
        (tmp_path / name).symlink_to(models_dir / name)
    (tmp_path / "mine").symlink_to(models_dir / DEMO_MODEL_ID)
    done = verify(stack.ports, "--model-id", "mine", MODELS_DIR=str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "[model_not_allowed] this server serves paligemma2-demo-224" in done.stderr
