"""What a container says that cannot start: the cause, and what to do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import FILES, PROJECT, TOKEN, docker, image, run
from hub_server import HubServer, Repository
from stack import DEMO_MODEL_ID, REPOSITORY, Ports

START_TIMEOUT_S = 300


def start(*options: str, network: str = "host", **variables: str) -> str:
    """What the supervisor says in the end; on the host's network, where the hub of the tests is."""
    environ = [f"--env={name}={value}" for name, value in {**Ports.free().environ(), **variables}.items()]
    command = (image("triton"), "python3", "/app/scripts/serve.py")
    arguments = ("run", "--rm", f"--network={network}", *environ, *options, *command)
    lines = docker(*arguments, check=False, timeout_s=START_TIMEOUT_S).splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("serve: "))
    assert lines[-1] == "serve: the server has been ended"
    return "\n".join(lines[first:])


@pytest.fixture(scope="module")
def hub(models_dir: Path) -> Iterator[HubServer]:
    with HubServer(tokens={"hf_good"}) as running:
        running.repositories["org/gated"] = Repository.of(models_dir / DEMO_MODEL_ID, gated=True)
        running.repositories["org/demo"] = Repository.of(models_dir / DEMO_MODEL_ID)
        yield running


def test_no_room_in_shared_memory() -> None:
    said = start("--shm-size=8m", MODEL_ID=DEMO_MODEL_ID)
    assert "serve: /dev/shm has 8 MB free of 8 MB, and Triton needs 32 MB" in said
    assert "give the container more (shm_size in the compose file, docker run --shm-size)" in said


def test_a_cache_that_cannot_be_written(hub: HubServer, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    cache = f"--volume={tmp_path}:/app/models/huggingface"
    said = start(cache, "--user=4321:4321", MODEL_ID="org/demo", HF_ENDPOINT=hub.url, VAE_CHECKPOINT="vae-demo.npz")
    assert "user 4321:4321 has no access to /app/models/huggingface" in said
    assert "run as the owner of that folder (UID and GID, in .env)" in said


def test_a_wrong_token(hub: HubServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hf_wrong")
    secret = f"--volume={token}:/run/secrets/hf_token:ro"
    said = start(secret, MODEL_ID="org/gated", HF_ENDPOINT=hub.url, VAE_CHECKPOINT="vae-demo.npz")
    assert "[model_gated] the hub refuses org/gated (status 401)" in said
    assert "where there is a token already, it is wrong or lacks the right to read gated models" in said
    assert "hf_wrong" not in said


def test_a_token_that_cannot_be_read(hub: HubServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hf_good")
    token.chmod(0o600)
    secret = f"--volume={token}:/run/secrets/hf_token:ro"
    said = start(secret, "--user=4321:4321", MODEL_ID="org/gated", HF_ENDPOINT=hub.url, VAE_CHECKPOINT="vae-demo.npz")
    assert "user 4321:4321 has no access to /run/secrets/hf_token" in said


def test_a_token_in_a_variable_becomes_a_file() -> None:
    """Compose hands it over; no process in the container finds it in its environment."""
    files = [f"--file={REPOSITORY / name}" for name in FILES]
    command = ["docker", "compose", "--project-name", f"{PROJECT}-token", *files]
    script = "cat /run/secrets/hf_token && ! env | grep --quiet HF_TOKEN"
    in_triton = ["run", "--rm", "--no-deps", "-T", "triton", "sh", "-c", script]
    environ = {**os.environ, "HF_TOKEN": TOKEN, "MODEL_ID": DEMO_MODEL_ID}
    try:
        assert run([*command, *in_triton], environ=environ).splitlines()[-1] == TOKEN
    finally:
        run([*command, "down", "--volumes"], environ=environ)


def test_no_weights_for_masks_and_no_network() -> None:
    said = start(network="none", MODEL_ID=DEMO_MODEL_ID, VAE_CHECKPOINT="vae-oid.npz")
    assert "/app/models/vae-oid.npz could not be downloaded" in said
    assert "put the file there yourself (sha256 5586010257b8" in said
    assert "or set VAE_CHECKPOINT to another one" in said


@pytest.mark.parametrize(
    ("model_id", "message"),
    [
        ("nowhere", "[model_not_found] nowhere is no folder under /app/models; name one, or a hub id such as org/name"),
        ("org/nothing", "[model_gated] the hub refuses org/nothing (status 401): check the id"),
    ],
)
def test_a_model_that_does_not_exist(hub: HubServer, model_id: str, message: str) -> None:
    assert message in start(MODEL_ID=model_id, HF_ENDPOINT=hub.url, VAE_CHECKPOINT="vae-demo.npz")
