"""Layers with few kernels: the numbers of transformers' own, no second copy of a weight, and only where they fit."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from engines import load_checkpoint
from torch import nn

from paligemma_engine import EngineConfig
from paligemma_engine.device.run_options import Compiled, CudaGraphs, RunOptions
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.layers import compact_layer
from paligemma_engine.layers.compact_layer import CompactLayer, compact_layers
from paligemma_engine.layers.replacement import weight_bytes
from paligemma_engine.model.attention import GROUPED_ATTENTION, additive_mask, use_attention
from paligemma_engine.model.kv_cache import DecodeView, PrefillView, SlotCache

ROWS, LENGTH = 3, 8


@pytest.fixture(params=[1, 2])
def model(request: pytest.FixtureRequest, models_dir: Path, tmp_path: Path) -> Any:
    """PaliGemma 1 and 2, with norms that have weights."""
    make_random_checkpoint(tmp_path / "random", models_dir / DEMO_MODEL_ID, generation=request.param)
    model = load_checkpoint(EngineConfig(model_id="random", models_dir=tmp_path)).model
    torch.manual_seed(0)
    for name, weight in model.model.language_model.named_parameters():
        if "norm" in name:
            nn.init.normal_(weight, std=0.3)
    use_attention(model.model.language_model, GROUPED_ATTENTION)
    return model


def layers_of(model: Any) -> Any:
    return model.model.language_model.layers


@torch.inference_mode()
def prefill_and_decode(model: Any) -> list[torch.Tensor]:
    """The last layer's output for prompts and for one more token, and its cache."""
    text, config = model.model.language_model, model.config.get_text_config()
    cache = SlotCache.allocate(config, slots=ROWS, max_length=20, dtype=torch.float32, device=torch.device("cpu"))
    positions = torch.tensor([LENGTH, LENGTH - 3, LENGTH - 5])
    slots, places = torch.arange(ROWS), torch.arange(LENGTH)
    views = (
        PrefillView(cache, slots=slots, positions=places),
        DecodeView(cache, positions=positions, length=LENGTH + 2),
    )
    torch.manual_seed(1)
    outputs = []
    for view, seen, position_ids in (
        (views[0], places < positions[:, None], places[None] + 1),
        (views[1], torch.arange(LENGTH + 2) <= positions[:, None], positions[:, None] + 1),
    ):
        hidden = torch.randn(ROWS, position_ids.shape[1], config.hidden_size)
        outputs.append(
            text.layers[-1](
                hidden,
                attention_mask=additive_mask(seen, torch.float32),
                position_embeddings=text.rotary_emb(hidden, position_ids),
                past_key_values=view,
            )
        )
    return [*outputs, cache.keys[-1], cache.values[-1]]


def test_the_numbers_are_those_of_transformers(model: Any) -> None:
    """A prefill with padding, and a decode step with a position for each row."""
    expected = prefill_and_decode(model)
    compact_layers(model.model.language_model)
    assert {type(layer) for layer in layers_of(model)} == {CompactLayer}
    torch.testing.assert_close(prefill_and_decode(model), expected, rtol=1e-4, atol=1e-5)


def test_plain_weights_do_not_stay(model: Any) -> None:
    weights = [weakref.ref(weight) for weight in layers_of(model).parameters() if weight.ndim > 1]
    size = weight_bytes(model)
    compact_layers(model.model.language_model)
    gc.collect()
    assert weight_bytes(model) == size
    assert {weight() for weight in weights} == {None}


def test_layers_with_special_linears_stay(model: Any) -> None:
    """A quantised one, one with a bias, and another dtype."""

    class Quantised(nn.Linear):
        pass

    layers = layers_of(model)
    layers[0].mlp.up_proj = Quantised(64, 96, bias=False)
    layers[1].self_attn.k_proj = nn.Linear(64, layers[1].self_attn.k_proj.out_features)
    layers[2].bfloat16()
    compact_layers(model.model.language_model)
    assert [type(layer) is CompactLayer for layer in layers_of(model)] == [False, False, False, True]


def test_large_layers_stay(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With layers beyond a core's cache, steps of a few rows took longer."""
    monkeypatch.setattr(
        compact_layer, "MOST_LAYER_BYTES", 4 * sum(w.numel() for w in layers_of(model)[0].parameters()) // 2
    )
    compact_layers(model.model.language_model)
    assert not any(type(layer) is CompactLayer for layer in layers_of(model))


@pytest.mark.parametrize(
    "options", [RunOptions.compiled_on_cpu(), RunOptions.on_gpu(), None], ids=["cpu", "gpu", "plain"]
)
def test_a_runner_has_them_on_a_cpu_where_nothing_is_compiled(models_dir: Path, options: RunOptions | None) -> None:
    checkpoint = load_checkpoint(EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir))
    assert options is None or not options.compact
    ModelRunner(
        checkpoint,
        slots=1,
        max_new_tokens=8,
        grammar=True,
        run_options=RunOptions.on_cpu(weight_bytes=1, dtype=torch.float32, image_tokens=64)
        if options is None
        else RunOptions(),
    )
    assert {type(layer) is CompactLayer for layer in layers_of(checkpoint.model)} == {options is None}


@pytest.mark.parametrize("fixed", [{"compiled": Compiled.STEPS}, {"cuda_graphs": CudaGraphs.AUTO}])
def test_steps_of_fixed_shape_have_transformers_layers(fixed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="own layers"):
        RunOptions(compact=True, **fixed)  # type: ignore[arg-type]
