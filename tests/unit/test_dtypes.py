"""Which dtype is computed in, by setting, text model and GPU."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from engines import load_checkpoint

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.checkpoints.dtypes import choose_dtype, dtype_warning, require_range
from paligemma_engine.checkpoints.files import CONFIG, WEIGHTS, CheckpointFiles, size_of, stored_dtype
from paligemma_engine.errors import ModelFailed
from paligemma_engine.memory.fit import Memory
from paligemma_engine.startup import start_engine

V100, T4, A100, L4, H100 = (7, 0), (7, 5), (8, 0), (8, 9), (9, 0)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (None, torch.float32),
        (V100, torch.float32),
        (T4, torch.float32),
        (A100, torch.bfloat16),
        (L4, torch.bfloat16),
        (H100, torch.bfloat16),
        ((12, 0), torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_where_the_gpu_computes_in_it(capability: Any, dtype: torch.dtype) -> None:
    assert choose_dtype("auto", capability=capability) is dtype


def on_cpu(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: dict.fromkeys(("avx2", *instructions), True))


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_on_a_cpu_is_what_the_weights_are_stored_in(monkeypatch: pytest.MonkeyPatch, instructions: str) -> None:
    on_cpu(monkeypatch, instructions)
    assert choose_dtype("auto", capability=None, stored="bfloat16") is torch.bfloat16
    for stored in ("float32", "float16", None):
        assert choose_dtype("auto", capability=None, stored=stored) is torch.float32


def test_a_cpu_without_bfloat16_arithmetic_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu(monkeypatch, "avx512_f")
    assert choose_dtype("auto", capability=None, stored="bfloat16") is torch.float32
    warning = dtype_warning("bfloat16", text_model="gemma2", capability=None)
    assert warning is not None
    assert re.search(r"this CPU has no bfloat16 arithmetic.* set DTYPE=auto", warning)
    on_cpu(monkeypatch, "avx512_f", "avx512_bf16")
    assert dtype_warning("bfloat16", text_model="gemma2", capability=None) is None


def test_what_weights_are_stored_in(models_dir: Path, tmp_path: Path) -> None:
    """By their files; before these are there, as before a download, by config.json, in its older form, too."""
    assert stored_dtype(models_dir / DEMO_MODEL_ID) == "float32"
    made = make_random_checkpoint(
        tmp_path / "made", models_dir / DEMO_MODEL_ID, dtype=torch.bfloat16, shard_size="200KB"
    )
    assert not (made / WEIGHTS).exists()
    assert stored_dtype(made) == "bfloat16"
    config = json.loads((made / CONFIG).read_text())
    bare = tmp_path / "bare"
    bare.mkdir()
    for said, expected in (({"dtype": "float32"}, "float32"), ({"torch_dtype": "bfloat16"}, "bfloat16"), ({}, None)):
        rest = {key: value for key, value in config.items() if key != "dtype"}
        (bare / CONFIG).write_text(json.dumps(rest | said))
        assert stored_dtype(bare) == expected


@pytest.mark.parametrize(("instructions", "dtype"), [("avx512_bf16", "bfloat16"), ("avx512_f", "float32")])
def test_a_checkpoint_in_bfloat16_takes_half_the_memory_where_the_cpu_computes_in_it(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instructions: str, dtype: str
) -> None:
    on_cpu(monkeypatch, instructions)
    made = make_random_checkpoint(tmp_path / "made", models_dir / DEMO_MODEL_ID, dtype=torch.bfloat16)
    config = EngineConfig(model_id="made", models_dir=tmp_path)
    checkpoint = load_checkpoint(config)
    assert checkpoint.dtype == dtype
    assert {str(weight.dtype) for weight in checkpoint.model.parameters()} == {f"torch.{dtype}"}
    need = Memory.needed(config, CheckpointFiles(made), size_of(made))
    assert need == Memory.needed(EngineConfig(dtype=dtype), CheckpointFiles(made), size_of(made))


def test_the_demo_model_stays_in_float32(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu(monkeypatch, "avx512_bf16")
    assert load_checkpoint(EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir)).dtype == "float32"


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_what_is_set_is_kept(name: str) -> None:
    for capability in (None, T4, H100):
        assert choose_dtype(name, capability=capability) is getattr(torch, name)


def test_float16_is_refused_for_gemma_2_alone() -> None:
    require_range("float16", text_model="gemma")
    for name in ("auto", "float32", "bfloat16"):
        require_range(name, text_model="gemma2")
    with pytest.raises(ModelFailed, match=r"gemma2.* exceeds float16's range.*set DTYPE=bfloat16, or DTYPE=float32"):
        require_range("float16", text_model="gemma2")


@pytest.mark.parametrize(
    ("name", "text_model", "said"),
    [
        ("auto", "gemma2", r"7\.5\) has no bfloat16 arithmetic: float32 .* twice the memory.* QUANTIZATION=8bit"),
        ("auto", "gemma", r"float32 .* twice the memory.* set DTYPE=float16"),
        ("bfloat16", "gemma2", "DTYPE=bfloat16 is slow here; set DTYPE=auto"),
    ],
)
def test_on_an_old_gpu_it_says_what_is_lost(name: str, text_model: str, said: str) -> None:
    warning = dtype_warning(name, text_model=text_model, capability=T4)
    assert warning is not None
    assert re.search(said, warning)


def test_elsewhere_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu(monkeypatch, "avx512_bf16")
    for name in ("auto", "float32", "bfloat16"):
        assert dtype_warning(name, text_model="gemma2", capability=None) is None
        assert dtype_warning(name, text_model="gemma2", capability=A100) is None
    assert dtype_warning("float32", text_model="gemma2", capability=T4) is None


def test_an_engine_does_not_start_in_float16(models_dir: Path) -> None:
    """Its answers were not numbers, and nothing said so."""
    config = EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir, dtype="float16")
    with pytest.raises(ModelFailed, match="set DTYPE=bfloat16"):
        start_engine(config, metrics=EngineMetrics(), on_fatal=lambda: None).close(drain_timeout_s=5)


def test_paligemma_1_is_loaded_in_float16(models_dir: Path, tmp_path: Path) -> None:
    make_random_checkpoint(tmp_path / "random", models_dir / DEMO_MODEL_ID, generation=1)
    checkpoint = load_checkpoint(EngineConfig(model_id="random", models_dir=tmp_path, dtype="float16"))
    assert checkpoint.model.lm_head.weight.dtype is torch.float16
