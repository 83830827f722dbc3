"""scripts/download.py as an operator runs it, against a local hub."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import DEMO_MODEL_ID
from hub_server import HubServer, Repository
from stack import REPOSITORY

TOKEN = "hf_ofsomebodywhoaccepted"
NAME = "org/demo"


@pytest.fixture
def hub(models_dir: Path) -> Iterator[HubServer]:
    with HubServer(tokens={TOKEN}) as server:
        server.repositories[NAME] = Repository.of(models_dir / DEMO_MODEL_ID, gated=True)
        yield server


def download(hub: HubServer, models_dir: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    ours = ("HF_", "MODEL", "VAE")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(models_dir / "home"), "MODELS_DIR": str(models_dir), **variables}
    command = [sys.executable, str(REPOSITORY / "scripts" / "download.py"), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_it_says_what_to_do_then_downloads_then_has_nothing_to_do(hub: HubServer, tmp_path: Path) -> None:
    refused = download(hub, tmp_path, NAME)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: [model_gated] org/demo is gated: accept its licence at")
    secret = tmp_path / "secret"
    secret.write_text(f"{TOKEN}\n")
    downloaded = download(hub, tmp_path, NAME, HF_TOKEN_PATH=str(secret))
    assert downloaded.returncode == 0, downloaded.stderr
    assert "org/demo: complete in" in downloaded.stdout
    assert "100%" in downloaded.stderr
    assert TOKEN not in downloaded.stdout + downloaded.stderr
    sent = hub.requests["model.safetensors"]
    assert download(hub, tmp_path, NAME, HF_TOKEN=TOKEN).returncode == 0
    assert hub.requests["model.safetensors"] == sent == 1


def test_a_file_that_is_not_the_published_one_is_refused(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "vae-oid.npz").write_bytes(b"something else")
    refused = download(hub, tmp_path, "--vae")
    assert refused.returncode == 1
    assert "is not the published file" in refused.stderr


def test_asked_for_nothing(hub: HubServer, tmp_path: Path) -> None:
    assert "nothing to download" in download(hub, tmp_path).stderr
