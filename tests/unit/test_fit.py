"""Whether a checkpoint fits: arithmetic by hand, containers' limits, and what an operator is told."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from hub_server import HubServer, Repository, hub_environment
from safetensors.numpy import save_file

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.checkpoints.files import CheckpointFiles, CheckpointSize, size_of
from paligemma_engine.errors import ModelFailed
from paligemma_engine.memory.cgroups import free_bytes_of_container
from paligemma_engine.memory.fit import DISK_RESERVE_BYTES, Memory, require_disk
from paligemma_engine.startup import CheckpointLoader, start_engine

GIB = 1 << 30
ENOUGH = Memory(gpu_bytes=1 << 50, host_bytes=1 << 50)
SIZE_3B = CheckpointSize(numbers=3_030_000_000, weight_bytes=6_060_000_000)


@pytest.fixture
def folder_3b(tmp_path: Path) -> Path:
    """PaliGemma 2 3B at 448 px, without weights."""
    text = {"model_type": "gemma2", "num_hidden_layers": 26, "num_key_value_heads": 4, "head_dim": 256}
    vision = {"model_type": "siglip_vision_model", "image_size": 448, "patch_size": 14}
    config = {"model_type": "paligemma", "text_config": text, "vision_config": vision}
    folder = tmp_path / "3b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def needed(folder: Path, *, adapter: bool = False, **settings: Any) -> Memory:
    files = CheckpointFiles(folder, adapter=folder if adapter else None)
    return Memory.needed(EngineConfig(**settings), files, SIZE_3B)


def test_on_the_cpu_weights_and_slots_are_the_hosts(folder_3b: Path) -> None:
    slot_bytes = 2 * 26 * 4 * 256 * (1024 + 128 + 256) * 4
    assert needed(folder_3b) == Memory(0, 4 * SIZE_3B.numbers + slot_bytes)
    assert needed(folder_3b, max_slots=2) == Memory(0, 4 * SIZE_3B.numbers + 2 * slot_bytes)
    assert needed(folder_3b, dtype="bfloat16", max_slots=2) == Memory(0, 2 * SIZE_3B.numbers + slot_bytes)


def test_on_a_gpu_the_host_holds_nothing(folder_3b: Path) -> None:
    need = needed(folder_3b, device="cuda:0", dtype="bfloat16")
    assert need.host_bytes == 0
    assert 2 * SIZE_3B.numbers + GIB < need.gpu_bytes < 2 * SIZE_3B.numbers + 4 * GIB


def test_quantised_weights_take_less_and_an_adapter_is_merged_on_the_host(folder_3b: Path) -> None:
    on_gpu = {"device": "cuda:0", "dtype": "bfloat16", "cuda_graphs": "off"}  # steps on quantised weights have none
    as_it_is = needed(folder_3b, **on_gpu).gpu_bytes
    for quantization, saved in (("8bit", 1.0), ("4bit", 1.5)):
        need = needed(folder_3b, quantization=quantization, **on_gpu)
        assert need == Memory(as_it_is - int(saved * SIZE_3B.numbers), 0)
        with_adapter = needed(folder_3b, adapter=True, quantization=quantization, **on_gpu)
        assert with_adapter == Memory(need.gpu_bytes, 2 * SIZE_3B.numbers)


def test_a_checkpoint_that_is_quantised_already_takes_what_its_files_hold(folder_3b: Path) -> None:
    config = json.loads((folder_3b / "config.json").read_text())
    (folder_3b / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    slot_bytes = 2 * 26 * 4 * 256 * (1024 + 128 + 256) * 4
    assert needed(folder_3b) == Memory(0, SIZE_3B.weight_bytes + slot_bytes)


def test_a_config_that_cannot_be_used_is_refused(folder_3b: Path) -> None:
    (folder_3b / "config.json").write_text('{"model_type": "paligemma", "text_config": {"num_hidden_layers": "x"}}')
    with pytest.raises(ModelFailed, match=r"config\.json that cannot be used"):
        needed(folder_3b)


def test_an_operator_is_told_what_is_missing_and_what_to_set() -> None:
    need = Memory(gpu_bytes=8 * 10**9, host_bytes=3 * 10**9)
    need.require(need, "org/name")
    with pytest.raises(ModelFailed, match=r"org/name needs 8\.0 GB of the GPU's memory, .* have 7\.0 GB; set QUANTIZ"):
        need.require(Memory(7 * 10**9, 3 * 10**9), "org/name")
    with pytest.raises(ModelFailed, match=r"needs 3\.0 GB of the host's memory, .* have 2\.0 GB; raise the container"):
        need.require(Memory(8 * 10**9, 2 * 10**9), "org/name")


def test_some_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 10**9))
    fitting = CheckpointSize(0, 0, download_bytes=10 * 10**9 - DISK_RESERVE_BYTES)
    require_disk(fitting, tmp_path / "not" / "there", "org/name")
    with pytest.raises(ModelFailed, match=r"is 9\.1 GB to download, and 10\.0 GB are free"):
        require_disk(CheckpointSize(0, 0, download_bytes=9_100_000_000), tmp_path, "org/name")


def limited(folder: Path, *, limit: str, usage: int, stat: str, version: int = 2) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip((*names, "memory.stat"), (limit, str(usage), stat), strict=True):
        (folder / name).write_text(f"{content}\n")


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    """What the kernel keeps of files counts as free: it takes that back."""
    own = tmp_path / "own"
    own.write_text("0::/\n")
    limited(tmp_path, limit="8000", usage=5000, stat="anon 3000\nactive_file 700\ninactive_file 300\nshmem 1000")
    assert free_bytes_of_container(tmp_path, own) == 4000


def test_each_group_above_may_have_the_tighter_limit(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/slice/service\n")
    limited(tmp_path / "slice" / "service", limit="max", usage=1, stat="anon 1")
    limited(tmp_path / "slice", limit="5000", usage=4000, stat="anon 1")
    assert free_bytes_of_container(tmp_path, own) == 1000


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    """Seen from inside, where the path on the host is not there."""
    own = tmp_path / "own"
    own.write_text("5:cpuset:/\n4:memory:/docker/1234\n0::/\n")
    limited(tmp_path / "memory", limit="6000", usage=5000, stat="total_inactive_file 500", version=1)
    assert free_bytes_of_container(tmp_path, own) == 1500
    limited(tmp_path / "memory", limit=str(2**63 - 4096), usage=5000, stat="", version=1)
    assert free_bytes_of_container(tmp_path, own) is None


def test_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert free_bytes_of_container(tmp_path, tmp_path / "own") is None


def test_the_default_model_is_checked_before_it_is_read(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paligemma_engine.memory.fit.free_host_bytes", lambda: 10_000_000)
    config = EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir)
    assert size_of(models_dir / DEMO_MODEL_ID).numbers == pytest.approx(3.91e6, rel=0.01)
    with pytest.raises(ModelFailed, match=r"needs \d+ MB of the host's memory, of which it can have 10 MB"):
        start_engine(config, metrics=EngineMetrics(), on_fatal=lambda: None)


def test_on_a_cpu_an_operator_is_told_how_weights_take_less() -> None:
    with pytest.raises(ModelFailed, match=r"set DTYPE=bfloat16, QUANTIZATION=8bit or a lower MAX_SLOTS, or choose"):
        Memory(0, 12 * 10**9).require(Memory(0, 8 * 10**9), "org/name")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models_dir: Path) -> Iterator[HubServer]:
    made = make_random_checkpoint(tmp_path / "made", models_dir / DEMO_MODEL_ID)
    with HubServer() as server:
        hub_environment(monkeypatch, server.url, tmp_path)
        server.repositories["org/made"] = Repository.of(made)
        yield server


def fetch(tmp_path: Path) -> CheckpointFiles:
    loader = CheckpointLoader("cpu", EngineMetrics(), on_fatal=lambda: None)
    return loader.fetch(EngineConfig(model_id="org/made", models_dir=tmp_path / "models"))


def test_what_memory_cannot_hold_is_not_downloaded(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("paligemma_engine.memory.fit.free_host_bytes", lambda: 1_000_000)
        with pytest.raises(ModelFailed, match=r"org/made needs .* of the host's memory"):
            fetch(tmp_path)
    assert hub.requests.total() == 0
    assert fetch(tmp_path).folder.is_dir()


def test_what_the_disk_cannot_hold_is_not_downloaded(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=DISK_RESERVE_BYTES + 1000))
        with pytest.raises(ModelFailed, match=r"org/made is .* to download"):
            fetch(tmp_path)
    assert hub.requests.total() == 0
    assert fetch(tmp_path).folder.is_dir()


@pytest.mark.parametrize(("tells", "numbers_per_byte"), [("sizes", 1 / 4), ("nothing", 0)])
def test_a_hub_that_says_little(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: str, numbers_per_byte: float
) -> None:
    """As many numbers as float32 would make of the bytes; if it does not even say those, it is tried."""
    sizes: list[CheckpointSize] = []
    original = Memory.needed

    def noted(config: EngineConfig, files: CheckpointFiles, size: CheckpointSize) -> Memory:
        sizes.append(size)
        return original(config, files, size)

    monkeypatch.setattr(Memory, "needed", noted)
    hub.repositories["org/made"].tells = tells
    fetch(tmp_path)
    weight_bytes = len(hub.repositories["org/made"].files["model.safetensors"])
    assert sizes[0].numbers == int(weight_bytes * numbers_per_byte)


def test_other_weights_beside_a_checkpoint_do_not_count(tmp_path: Path) -> None:
    """Mirrors keep a second format there, and trainings their optimizer's state."""
    save_file({"a": np.zeros((3, 4), np.float32)}, tmp_path / "model.safetensors")
    save_file({"a": np.zeros((3, 4), np.float32)}, tmp_path / "consolidated.safetensors")
    (tmp_path / "optimizer.safetensors").write_bytes(b"broken")
    assert size_of(tmp_path).numbers == 12
