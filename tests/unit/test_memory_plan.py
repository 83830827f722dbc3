"""How many slots fit: arithmetic by hand for the 3B, and what an operator is told where they do not."""

from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID
from engines import demo_checkpoint
from transformers import Gemma2Config, PaliGemmaForConditionalGeneration

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.checkpoints.files import size_of
from paligemma_engine.errors import ModelFailed
from paligemma_engine.memory.slot_plan import MemoryNeed, choose_slots, plan_slots, slots_on_cpu
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


def need(*, captured: bool = True, dtype: torch.dtype = torch.bfloat16) -> MemoryNeed:
    return MemoryNeed.of(
        GEMMA_2_2B,
        prompt_length=1024 + 128,
        max_new_tokens=256,
        dtype=dtype,
        feature_cache_bytes=256_000_000,
        captured=captured,
    )


NEED = need()


def test_a_slot_holds_the_keys_and_values_of_all_layers() -> None:
    """26 layers x 4 heads x 256 numbers x 2 bytes, twice, are 106,496 bytes a position; times 1,408 positions."""
    assert NEED.slot_bytes == 149_946_368
    assert need(dtype=torch.float32).slot_bytes == 299_892_736


def test_a_prefill_holds_scores_and_the_mlp() -> None:
    """Scores of 8 heads, 1,152 x 1,152, in float32, four times; 1,152 x 9,216 in bfloat16, three times."""
    assert NEED.prefill_bytes == 169_869_312 + 63_700_992


def test_a_row_holds_logits() -> None:
    """257,216 in float32, five times."""
    assert NEED.row_bytes == 5_144_320


def test_steps_share_memory_and_the_largest_one_counts() -> None:
    """Up to 45 rows a prefill needs more than a decode step; graphs need it once more. 1 GiB is the margin."""
    kept_bytes = 256_000_000 + 1_073_741_824
    assert need(captured=False).for_slots(1) == 149_946_368 + 233_570_304 + kept_bytes
    assert need(captured=False).for_slots(32) == 32 * 149_946_368 + 233_570_304 + kept_bytes
    assert NEED.for_slots(32) == 32 * 149_946_368 + 2 * 233_570_304 + kept_bytes
    assert NEED.for_slots(64) == 64 * 149_946_368 + 2 * 329_236_480 + kept_bytes


@pytest.mark.parametrize(("free_gib", "slots"), [(134, 32), (16, 32), (8, 32), (6, 30), (4, 16), (3, 9), (2, 2)])
def test_as_many_as_fit(free_gib: int, slots: int) -> None:
    assert choose_slots(None, NEED, free_bytes=free_gib * GIB) == slots


def test_without_graphs_more_fit() -> None:
    assert choose_slots(None, need(captured=False), free_bytes=4 * GIB) == 18


def test_where_none_fits_it_says_what_to_set() -> None:
    with pytest.raises(ModelFailed, match=r"no slot fits the 1\.1 GB .* set QUANTIZATION=8bit"):
        choose_slots(None, NEED, free_bytes=GIB)


@pytest.mark.parametrize("captured", [True, False])
def test_what_is_planned_fits_and_one_more_would_not(captured: bool) -> None:
    planned = need(captured=captured)
    for free_bytes in range(0, 20 * GIB, 333_333_333):
        slots = planned.slots_within(free_bytes)
        assert slots == 0 or planned.for_slots(slots) <= free_bytes
        assert planned.for_slots(slots + 1) > free_bytes


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ModelFailed, match=r"model\.safetensors cannot be read"):
        size_of(tmp_path)


def test_a_number_that_was_set_is_kept_or_refused() -> None:
    assert choose_slots(64, NEED, free_bytes=40 * GIB) == 64
    with pytest.raises(ModelFailed, match=r"MAX_SLOTS=64 does not fit the 8\.6 GB .*, 45 do; set it to auto"):
        choose_slots(64, NEED, free_bytes=8 * GIB)


def test_a_large_model_has_fewer_slots_on_a_cpu() -> None:
    """12 slots of the 3B are 1.8 GB beside its 6 GB; a small model has all 32."""
    assert slots_on_cpu(NEED, free_bytes=40 * GIB) == 12
    assert slots_on_cpu(NEED, free_bytes=1 * GIB) == 7
    assert slots_on_cpu(NEED, free_bytes=0) == 1


def test_on_the_cpu_nothing_is_measured(models_dir: Path) -> None:
    checkpoint = demo_checkpoint(models_dir)
    assert plan_slots(EngineConfig(), checkpoint) == 32
    assert plan_slots(EngineConfig(max_slots=3), checkpoint) == 3


def test_weights_that_do_not_fit_say_what_to_set(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(PaliGemmaForConditionalGeneration, "from_pretrained", out_of_memory)
    with pytest.raises(ModelFailed, match="does not fit the GPU; set QUANTIZATION=8bit or 4bit"):
        start_engine(
            EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir), metrics=EngineMetrics(), on_fatal=lambda: None
        )
