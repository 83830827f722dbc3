"""How many slots fit: arithmetic by hand for the 3B, and what an operator is told where they do not."""

from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID
from engines import demo_checkpoint
from transformers import Gemma2Config, PaliGemmaForConditionalGeneration

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.checkpoint_files import size_of
from paligemma_engine.errors import ModelFailed
from paligemma_engine.memory_plan import MARGIN_BYTES, MemoryNeed, choose_slots, plan_slots
from paligemma_engine.startup import start_engine

GIB = 1 << 30
# PaliGemma 2 3B at 448 px: 1,024 image tokens, 128 of the prompt, 256 of the answer.
GEMMA_2_2B = Gemma2Config(
    vocab_size=257_216,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
)
NEED = MemoryNeed.of(GEMMA_2_2B, length=1408, dtype=torch.bfloat16, feature_cache_bytes=256_000_000)


def test_a_slot_holds_the_keys_and_values_of_all_layers() -> None:
    assert NEED.slot_bytes == 2 * 26 * 4 * 256 * 1408 * 2
    assert NEED.fixed_bytes > MARGIN_BYTES + 256_000_000 + 2 * 8 * 1408**2 * 4


@pytest.mark.parametrize(("free_gib", "slots"), [(134, 32), (16, 32), (8, 32), (4, 14), (3, 7)])
def test_as_many_as_fit(free_gib: int, slots: int) -> None:
    assert choose_slots(None, NEED, free_bytes=free_gib * GIB) == slots


def test_where_none_fits_it_says_what_to_set() -> None:
    with pytest.raises(ModelFailed, match=r"no slot fits the 1\.1 GB .* set QUANTIZATION=8bit"):
        choose_slots(None, NEED, free_bytes=GIB)


def test_what_is_planned_is_never_more_than_there_is() -> None:
    for free_bytes in range(0, 20 * GIB, 333_333_333):
        slots = NEED.slots_within(free_bytes)
        taken = NEED.fixed_bytes + slots * (NEED.slot_bytes + NEED.row_bytes)
        assert slots == 0 or taken <= free_bytes < taken + NEED.slot_bytes + NEED.row_bytes


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ModelFailed, match=r"model\.safetensors cannot be read"):
        size_of(tmp_path)


def test_a_number_that_was_set_is_kept_or_refused() -> None:
    assert choose_slots(64, NEED, free_bytes=40 * GIB) == 64
    with pytest.raises(ModelFailed, match=r"MAX_SLOTS=64 does not fit the 8\.6 GB .*, 41 do; set it to auto"):
        choose_slots(64, NEED, free_bytes=8 * GIB)


def test_on_the_cpu_nothing_is_measured(models_dir: Path) -> None:
    checkpoint = demo_checkpoint(models_dir)
    assert plan_slots(EngineConfig(), checkpoint) == 16
    assert plan_slots(EngineConfig(max_slots=3), checkpoint) == 3


def test_weights_that_do_not_fit_say_what_to_set(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(PaliGemmaForConditionalGeneration, "from_pretrained", out_of_memory)
    with pytest.raises(ModelFailed, match="does not fit the GPU; set QUANTIZATION=8bit or 4bit"):
        start_engine(
            EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir), metrics=EngineMetrics(), on_fatal=lambda: None
        )
