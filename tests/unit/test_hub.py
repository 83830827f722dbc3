"""Finding a checkpoint: each branch of the way from an id to files, against a local hub."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from hub_server import CHUNK_BYTES, HUB_TOKEN_FILE, HubServer, Repository, hub_environment

import paligemma_engine.checkpoints.hub
from paligemma_engine import EngineConfig, EngineError
from paligemma_engine.checkpoints.hub import UNCHECKED, download, find_checkpoint
from paligemma_engine.checkpoints.model_id import ModelId
from paligemma_engine.config import HUB_CACHE_FOLDER
from paligemma_engine.errors import HubFailed, ModelFailed, ModelGated, ModelNotAllowed, ModelNotFound

NAME = "org/tiny"
TOKEN = "hf_ofsomebodywhoaccepted"
STRANGER = "hf_ofsomebodywhodidnot"
WEIGHTS = bytes(range(256)) * 400

SHARDED = {
    "config.json": json.dumps({"model_type": "paligemma"}).encode(),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickled",
    "code.py": b"raise SystemExit",
}
LARGEST = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with one model, and no token anywhere on this machine."""
    with HubServer(tokens={TOKEN}, strangers={STRANGER}) as server:
        server.repositories[NAME] = Repository(dict(SHARDED))
        hub_environment(monkeypatch, server.url, tmp_path)
        yield server


def find(models_dir: Path, model_id: str = NAME, token: str | None = None) -> Path:
    return find_checkpoint(EngineConfig(model_id=model_id, models_dir=models_dir, hf_token=token))


def refusal(models_dir: Path, kind: type[EngineError], model_id: str = NAME, token: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        find(models_dir, model_id, token)
    assert type(caught.value) is kind
    assert TOKEN not in str(caught.value) and STRANGER not in str(caught.value)
    return str(caught.value)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_folder_comes_first(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir(parents=True)
    for name in ("config.json", LARGEST):
        (folder / name.replace(LARGEST, "model.safetensors")).write_bytes(SHARDED[name])
    assert find(tmp_path) == folder
    assert hub.requests.total() == 0


def test_a_public_model_needs_no_token(hub: HubServer, tmp_path: Path) -> None:
    folder = find(tmp_path)
    assert {path.name for path in folder.iterdir()} == set(SHARDED) - {"pytorch_model.bin", "code.py"}
    assert folder.is_relative_to(tmp_path / HUB_CACHE_FOLDER / "models--org--tiny")


def test_the_cache_comes_before_the_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find(tmp_path)
    hub.repositories.clear()
    assert find(tmp_path) == folder
    offline(monkeypatch)
    assert find(tmp_path) == folder


def test_offline_without_a_cache(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    assert "HF_HUB_OFFLINE forbids a download" in refusal(tmp_path, HubFailed)
    assert hub.requests.total() == 0


def test_a_hub_that_cannot_be_reached(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub_environment(monkeypatch, "http://127.0.0.1:9", tmp_path)
    assert "could not be downloaded ([Errno 111] Connection refused); try again later" in refusal(tmp_path, HubFailed)


def test_offline_with_half_a_cache(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (find(tmp_path) / LARGEST).unlink()
    offline(monkeypatch)
    refusal(tmp_path, HubFailed)


def test_a_gated_model_without_a_token(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[NAME].gated = True
    said = refusal(tmp_path, ModelGated)
    assert f"accept its licence at {hub.url}/{NAME}" in said
    assert "HF_TOKEN" in said and "/run/secrets/hf_token" in said


def test_a_gated_model_with_the_token_of_a_stranger(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[NAME].gated = True
    assert "accept its licence" in refusal(tmp_path, ModelGated, token=STRANGER)


def test_a_gated_model_with_a_token(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.repositories[NAME].gated = True
    with caplog.at_level(logging.DEBUG):
        find(tmp_path, token=TOKEN)
    assert hub.leaks == []
    assert TOKEN not in caplog.text


def test_the_hubs_own_token_file(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[NAME].gated = True
    (tmp_path / HUB_TOKEN_FILE).write_text(TOKEN)
    find(tmp_path)


def test_a_wrong_token(hub: HubServer, tmp_path: Path) -> None:
    assert "it is wrong" in refusal(tmp_path, ModelGated, token="hf_invented")


def test_a_model_that_is_private_or_not_there(hub: HubServer, tmp_path: Path) -> None:
    """Without a token the hub does not tell them apart."""
    hub.repositories[NAME].private = True
    refusal(tmp_path, ModelGated)
    refusal(tmp_path, ModelGated, "org/nothing")
    refusal(tmp_path, ModelNotFound, token=STRANGER)
    assert "check the id" in refusal(tmp_path, ModelNotFound, "org/nothing", token=TOKEN)


def test_a_name_without_a_folder_is_not_looked_for_on_the_hub(hub: HubServer, tmp_path: Path) -> None:
    assert "is no folder under" in refusal(tmp_path, ModelNotFound, "nowhere")


def test_the_main_branch_need_not_be_named(hub: HubServer, tmp_path: Path) -> None:
    assert ModelId.parse(f"{NAME}@main") == ModelId.parse(NAME)
    assert find(tmp_path, f"{NAME}@main") == find(tmp_path)


def test_a_revision(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repositories[NAME].commit
    assert find(tmp_path, f"{NAME}@{commit}").name == commit
    assert "no revision v9" in refusal(tmp_path, ModelNotFound, f"{NAME}@v9")


@pytest.mark.parametrize(
    "model_id",
    ["../x", "/etc", "a/b/c", "a/../b", "org/..", "org/", "", ".hidden", "a//b", "a\\b", "a@", "a/b@c/d", "a b"],
)
def test_ids_that_are_refused(model_id: str) -> None:
    with pytest.raises(ModelNotAllowed):
        ModelId.parse(model_id)


def test_a_cut_download_goes_on_where_it_stopped(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[NAME].cuts = 1
    folder = find(tmp_path)
    assert (folder / LARGEST).read_bytes() == WEIGHTS
    (offset,) = hub.ranges
    assert len(WEIGHTS) // 2 - CHUNK_BYTES < offset <= len(WEIGHTS) // 2


def test_what_an_earlier_attempt_completed_is_kept(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub goes away in the middle of a file and comes back."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    complete, cut = sorted(name for name in SHARDED if name.endswith(".safetensors"))
    only = {name: content for name, content in SHARDED.items() if name != cut}
    hub.repositories[NAME].files = only
    refusal(tmp_path, ModelFailed)
    hub.repositories[NAME].files = dict(SHARDED)
    hub.repositories[NAME].cuts = 100
    assert "could not be downloaded" in refusal(tmp_path, HubFailed)
    assert not list((tmp_path / HUB_CACHE_FOLDER).rglob("*.incomplete"))
    hub.repositories[NAME].cuts = 0
    folder = find(tmp_path)
    assert hub.requests[complete] == 1
    assert (folder / cut).read_bytes() == SHARDED[cut]


def test_a_wrong_checksum_is_thrown_away(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[NAME].corrupt = True
    assert f"{LARGEST}, model-00002-of-00002.safetensors came with a wrong checksum" in refusal(tmp_path, HubFailed)
    hub.repositories[NAME].corrupt = False
    assert (find(tmp_path) / LARGEST).read_bytes() == WEIGHTS


def test_what_nobody_checked_is_not_trusted(hub: HubServer, tmp_path: Path) -> None:
    """As a process leaves it that dies between download and check."""
    folder = find(tmp_path)
    (folder.parent.parent / UNCHECKED).touch()
    blob = (folder / LARGEST).resolve()
    blob.chmod(0o644)
    blob.write_bytes(WEIGHTS[:-1] + b"x")
    refusal(tmp_path, HubFailed)
    assert (find(tmp_path) / LARGEST).read_bytes() == WEIGHTS
    assert not (folder.parent.parent / UNCHECKED).exists()


def test_what_others_put_into_the_cache_is_refused_but_stays(hub: HubServer, tmp_path: Path) -> None:
    """The cache may be the host's own."""
    folder = find(tmp_path)
    blob = (folder / LARGEST).resolve()
    blob.chmod(0o644)
    blob.write_bytes(WEIGHTS[:-1] + b"x")
    for _ in range(2):
        with pytest.raises(HubFailed, match=r"is damaged in the local cache; delete .*blobs/.* and try again"):
            download(ModelId.parse(NAME), models_dir=tmp_path, token=None)
    assert blob.exists()
    blob.unlink()
    assert (find(tmp_path) / LARGEST).read_bytes() == WEIGHTS


def test_two_at_once_download_once(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found nothing in the cache when they begin."""
    both, original = threading.Barrier(2), paligemma_engine.checkpoints.hub._download_config

    def together(source: dict[str, Any]) -> Path:
        both.wait(30)
        return original(source)

    monkeypatch.setattr(paligemma_engine.checkpoints.hub, "_download_config", together)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(find(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders[0] == folders[1]
    assert hub.requests[LARGEST] == 1


def test_a_download_looks_for_what_is_newer(hub: HubServer, tmp_path: Path) -> None:
    older = find(tmp_path)
    hub.repositories[NAME].files["tokenizer.json"] = b'{"version": 2}'
    assert find(tmp_path) == older
    newer = download(ModelId.parse(NAME), models_dir=tmp_path, token=None)
    assert newer != older
    assert find(tmp_path) == newer
    assert hub.requests[LARGEST] == 1


def test_an_ordinary_cache_is_taken_as_it_is(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an older library leaves it: no list of the repository's files, and no mark."""
    shutil.rmtree(find(tmp_path).parent.parent / "trees")
    offline(monkeypatch)
    find(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": b'{"model_type": "bert"}'}, "is a bert checkpoint"),
        ({"config.json": b"{"}, "config.json cannot be read"),
        ({"config.json": SHARDED["config.json"], "pytorch_model.bin": b"pickled"}, "only safetensors are read"),
        ({"tokenizer.json": b"{}"}, "has no config.json"),
        ({**SHARDED, "model.safetensors.index.json": b"[]"}, "lists no weights"),
    ],
)
def test_what_is_no_checkpoint_of_ours(hub: HubServer, tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    hub.repositories[NAME].files = files
    assert said in refusal(tmp_path, ModelFailed)
    assert hub.requests["pytorch_model.bin"] == 0


def test_two_processes_that_start_at_once_download_once(hub: HubServer, tmp_path: Path) -> None:
    """As the engines of a host with several GPUs do."""
    hub.repositories[NAME].delay_s = 0.1
    code = (
        "import sys; from pathlib import Path; from paligemma_engine import EngineConfig; "
        "from paligemma_engine.checkpoints.hub import find_checkpoint; "
        "print(find_checkpoint(EngineConfig(model_id=sys.argv[1], models_dir=Path(sys.argv[2]))))"
    )
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **ours}
    command = [sys.executable, "-c", code, NAME, str(tmp_path / "models")]
    started = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=60)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert {path.name for path in Path(*folders).iterdir()} == set(SHARDED) - {"pytorch_model.bin", "code.py"}
    assert {hub.requests[name] for name in SHARDED if name.endswith(".safetensors")} == {1}
