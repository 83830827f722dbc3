"""The last layer of a prefill, for the last token only, gives the numbers of the whole layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from engines import load_checkpoint
from torch import nn

from paligemma_engine import EngineConfig
from paligemma_engine.checkpoints.dtypes import cpu_computes_in_int8
from paligemma_engine.device.compilation import compile_layers
from paligemma_engine.layers.compact_layer import compact_layers
from paligemma_engine.layers.int8_linear import Int8Linear
from paligemma_engine.layers.last_layer import LastTokens
from paligemma_engine.layers.replacement import join_linears
from paligemma_engine.model.attention import GROUPED_ATTENTION, additive_mask, use_attention
from paligemma_engine.model.kv_cache import PrefillView, SlotCache
from paligemma_engine.model.rms_norm import ready_norms

LENGTH, LENGTHS, SLOTS = 9, (9, 5, 7), (3, 0, 2)


class Prompts:
    """Embeddings of three prompts, two of them padded, and an empty cache for them."""

    def __init__(self, model: Any) -> None:
        torch.manual_seed(0)
        config = model.config.get_text_config()
        self.model = model.model.language_model
        self.embeddings = torch.randn(len(LENGTHS), LENGTH, config.hidden_size)
        self.lengths = torch.tensor(LENGTHS)
        self.mask = additive_mask(torch.arange(LENGTH) < self.lengths[:, None], torch.float32)
        self.cache = SlotCache.allocate(
            config, slots=4, max_length=LENGTH + 2, dtype=torch.float32, device=torch.device("cpu")
        )
        self.inputs: dict[str, Any] = {
            "position_ids": torch.arange(1, LENGTH + 1)[None],
            "past_key_values": PrefillView(self.cache, slots=torch.tensor(SLOTS), positions=torch.arange(LENGTH)),
        }

    @torch.inference_mode()
    def by_last_tokens(self, last_tokens: LastTokens) -> torch.Tensor:
        found: torch.Tensor = last_tokens(self.embeddings, self.lengths - 1, mask=self.mask, **self.inputs)
        return found

    @torch.inference_mode()
    def by_the_whole_model(self) -> torch.Tensor:
        masks = dict.fromkeys(("full_attention", "sliding_attention"), self.mask)
        of_gemma_2 = "Gemma2" in type(self.model).__name__
        outputs = self.model(
            inputs_embeds=self.embeddings, attention_mask=masks if of_gemma_2 else self.mask, **self.inputs
        )
        hidden: torch.Tensor = outputs.last_hidden_state[torch.arange(len(LENGTHS)), self.lengths - 1]
        return hidden


@pytest.fixture(params=[1, 2])
def model(request: pytest.FixtureRequest, models_dir: Path, tmp_path: Path) -> Any:
    """PaliGemma 1 and 2, the latter with a window that is shorter than the prompts; norms and attention ours."""
    make_random_checkpoint(
        tmp_path / "random", models_dir / DEMO_MODEL_ID, generation=request.param, sliding_window=LENGTH // 2
    )
    model = load_checkpoint(EngineConfig(model_id="random", models_dir=tmp_path)).model
    use_attention(model.model.language_model, GROUPED_ATTENTION)
    ready_norms(model.model.language_model)
    return model


def test_with_compact_layers_it_equals_the_whole_model(model: Any) -> None:
    compact_layers(model.model.language_model)
    whole, last = Prompts(model), Prompts(model)
    expected = whole.by_the_whole_model()
    torch.testing.assert_close(last.by_last_tokens(LastTokens(last.model)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last.cache.keys, whole.cache.keys)
    torch.testing.assert_close(last.cache.values, whole.cache.values)


def same_linear(linear: nn.Linear) -> nn.Module:
    return linear


@pytest.mark.parametrize("joined", [None, same_linear, Int8Linear], ids=["plain", "joined", "8 bits"])
def test_it_equals_the_whole_model(model: Any, joined: Any) -> None:
    """Prompts with padding, in any slots; the cache holds the same, too."""
    if joined is Int8Linear and not cpu_computes_in_int8():
        pytest.skip("this processor has no 8-bit arithmetic")
    if joined is not None:
        join_linears([model.model.language_model], joined)
    whole, last = Prompts(model), Prompts(model)
    expected = whole.by_the_whole_model()
    torch.testing.assert_close(last.by_last_tokens(LastTokens(last.model)), expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(
        (*last.cache.keys, *last.cache.values), (*whole.cache.keys, *whole.cache.values), strict=True
    ):
        assert torch.equal(ours, theirs)
        assert all(ours[slot].any() == (slot in SLOTS) for slot in range(4))


def test_the_last_layer_sees_few_tokens(model: Any) -> None:
    prompts, seen = Prompts(model), []
    for layer in prompts.model.layers:
        layer.mlp.register_forward_hook(lambda _module, arguments, _output: seen.append(arguments[0].shape[1]))
    prompts.by_last_tokens(LastTokens(prompts.model))
    assert seen == [LENGTH] * (len(prompts.model.layers) - 1) + [1]


def test_a_text_model_of_another_kind_runs_as_a_whole(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = Prompts(model)
    last_tokens = LastTokens(prompts.model)
    monkeypatch.setattr(last_tokens, "is_gemma", False)
    assert torch.equal(prompts.by_last_tokens(last_tokens), prompts.by_the_whole_model())


def test_compiled_layers_serve_it(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    monkeypatch.setattr("paligemma_engine.device.compilation._OPTIONS", {"fullgraph": True, "backend": "eager"})
    prompts = Prompts(model)
    expected = prompts.by_the_whole_model()
    compile_layers(model, nn.Identity())
    torch.testing.assert_close(prompts.by_last_tokens(LastTokens(prompts.model)), expected, rtol=1e-4, atol=1e-5)
