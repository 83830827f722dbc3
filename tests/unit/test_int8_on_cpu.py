"""8-bit weights on a CPU: how far rounding goes, that a batch changes nothing, and what is answered."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from engines import ask_once, load_checkpoint
from parity_cases import make_case, run
from torch import nn

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.checkpoints.dtypes import cpu_computes_in_int8
from paligemma_engine.layers.int8_linear import Int8Linear
from paligemma_engine.layers.joined_linears import JoinedLinear, JoinedLinears
from paligemma_engine.layers.replacement import join_linears, weight_bytes
from paligemma_engine.startup import start_runner

COUNT = 40
LARGEST_ERROR = 0.02  # of a layer's output, as a share of its length; 0.01 was seen
CLOSE_BINS = 8  # of 1024
SHARE_OF_CLOSE_BOXES = 0.8

pytestmark = [
    pytest.mark.skipif(not cpu_computes_in_int8(), reason="this processor has no 8-bit arithmetic"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),  # of what peft calls
]


@pytest.fixture(scope="module")
def int8(models_dir: Path) -> EngineConfig:
    return EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir, quantization="8bit", max_slots=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_layer_is_close_to_the_plain_one(dtype: torch.dtype, bias: bool) -> None:
    """Both factors are rounded to 255 steps; a token has a scale of its own, so others do not matter."""
    torch.manual_seed(0)
    linear = nn.Linear(512, 160, bias=bias).to(dtype)
    hidden = torch.randn(2, 7, 512, dtype=dtype) * torch.logspace(-3, 3, 7)[:, None].to(dtype)
    hidden[0, 0] = 0.0
    layer = Int8Linear(linear)
    rounded, exact = layer(hidden), linear.float()(hidden.float())
    assert rounded.dtype is dtype
    assert rounded.shape == (2, 7, 160)
    error = (rounded.float() - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-6)
    assert error.max() < LARGEST_ERROR
    assert torch.equal(layer(hidden[1:, 3:4])[0, 0], rounded[1, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_joined_layers_give_the_same_numbers(dtype: torch.dtype) -> None:
    """Whatever is called in between, and if a call is left out."""
    torch.manual_seed(0)
    linears = [nn.Linear(64, size, bias=False).to(dtype) for size in (96, 32, 32)]
    joined = JoinedLinears(linears, Int8Linear)
    layers = [JoinedLinear(joined, number) for number in range(len(linears))]
    alone = [Int8Linear(linear) for linear in linears]
    first, second = torch.randn(2, 1, 64, dtype=dtype), torch.randn(1, 5, 64, dtype=dtype)
    for hidden, numbers in ((first, (0, 1, 2)), (second, (0, 1)), (first, (0, 1, 2)), (second, (2, 1, 0))):
        for number in numbers:
            assert torch.equal(layers[number](hidden), alone[number](hidden))


@torch.inference_mode()
def test_joined_layers_keep_nothing() -> None:
    linears = [nn.Linear(64, 32, bias=False) for _ in range(2)]
    joined = JoinedLinears(linears, Int8Linear)
    hidden = torch.randn(1, 64)
    kept = weakref.ref(hidden)
    for number in range(2):
        JoinedLinear(joined, number)(hidden)
    del hidden
    assert kept() is None


def test_layers_with_a_bias_are_not_joined() -> None:
    attention = nn.ModuleDict({name: nn.Linear(8, 8, bias=name == "k_proj") for name in ("q_proj", "k_proj", "v_proj")})
    join_linears([attention], Int8Linear)
    assert {type(layer) for layer in attention.values()} == {nn.Linear}


def test_the_text_model_and_the_head_are_rounded(int8: EngineConfig) -> None:
    """The embedding is not, though the head shares its weight; logits are not rounded to the model's dtype."""
    plain = load_checkpoint(replace(int8, quantization="off"))
    checkpoint = load_checkpoint(replace(int8, dtype="bfloat16"))
    text, vision = checkpoint.model.model.language_model, checkpoint.model.model.vision_tower
    assert checkpoint.is_quantized
    assert {type(module) for module in text.modules() if "Linear" in type(module).__name__} == {
        Int8Linear,
        JoinedLinear,
        JoinedLinears,
    }
    assert {type(module) for module in vision.modules() if "Linear" in type(module).__name__} == {nn.Linear}
    assert weight_bytes(checkpoint.model) < 0.6 * weight_bytes(plain.model)
    embedding = checkpoint.model.get_input_embeddings().weight
    assert torch.equal(embedding, plain.model.get_input_embeddings().weight.bfloat16())
    with torch.inference_mode():
        logits = checkpoint.model.lm_head(torch.ones(1, embedding.shape[1], dtype=torch.bfloat16))
    assert logits.dtype is torch.float32
    assert logits.shape == (1, len(embedding))


def test_compiling_is_left_out(int8: EngineConfig) -> None:
    checkpoint = load_checkpoint(int8)
    runner = start_runner(replace(int8, compile=True), checkpoint, EngineMetrics())
    assert runner.run_options.compiled is None


def test_boxes_stay_about_where_they_were(int8: EngineConfig, models_dir: Path) -> None:
    """Against float32's, which are generate's; whatever shares the batch, answers are the same."""
    case = make_case(models_dir, DEMO_MODEL_ID, max_new_tokens=30, count=COUNT)
    rounded = replace(case, checkpoint=load_checkpoint(int8))
    answered = run(rounded, slots=4, count=COUNT)
    alone = run(rounded, slots=1, count=COUNT)
    assert [answer.token_ids for answer in answered] == [answer.token_ids for answer in alone]
    pairs = [
        (ours.token_ids[:4], theirs.token_ids[:4])
        for ours, theirs in zip(answered, case.references, strict=True)
        if ours.token_ids and theirs.token_ids
    ]
    close = [max(abs(ours - theirs) for ours, theirs in zip(*pair, strict=True)) <= CLOSE_BINS for pair in pairs]
    assert len(pairs) > COUNT / 2
    assert sum(close) >= SHARE_OF_CLOSE_BOXES * len(close)


def test_an_adapter_is_merged_before(models_dir: Path, sample_image: bytes, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    made = make_random_checkpoint(tmp_path / "base", models_dir / DEMO_MODEL_ID)
    base = load_checkpoint(EngineConfig(model_id="base", models_dir=tmp_path))
    lora = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
    peft.get_peft_model(base.model, lora).save_pretrained(tmp_path / "adapter")
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(made), made.name))
    config = EngineConfig(models_dir=tmp_path, quantization="8bit", max_slots=1, max_new_tokens=8, grammar=False)
    texts = {
        model_id: [
            token.text
            for token in ask_once(replace(config, model_id=model_id), sample_image, "segment blue star")
            .targets[0]
            .tokens
        ]
        for model_id in ("base", "adapter")
    }
    assert texts["base"] != texts["adapter"]
