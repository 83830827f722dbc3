"""Quantised weights, by the real library, which runs on a CPU, too: answers equal those of `generate` on the same."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from checkpoints import DEMO_MODEL_ID, Transformers, make_random_checkpoint
from engines import ask_once, load_checkpoint
from PIL import Image
from transformers import BitsAndBytesConfig

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.answers.detokenizer import token_texts
from paligemma_engine.checkpoints.files import CheckpointFiles
from paligemma_engine.checkpoints.loading import load_files
from paligemma_engine.errors import ModelFailed
from paligemma_engine.startup import start_runner

PROMPT = "segment blue star"
KEPT = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
QUANTIZED = {
    "8bit": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT),
    "4bit": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=KEPT),
}
NEW_TOKENS = 8

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # of what peft calls


def assert_answers_alike(config: EngineConfig, reference: Transformers, encoded: bytes) -> None:
    generated = reference.generate(Image.open(io.BytesIO(encoded)).convert("RGB"), PROMPT, config.max_new_tokens)
    (target,) = ask_once(config, encoded, PROMPT).targets
    assert [token.text for token in target.tokens] == token_texts(reference.processor.tokenizer, generated.token_ids)
    assert [token.logprob for token in target.tokens] == pytest.approx(generated.logprobs, abs=1e-2)


def reference_of(folder: Path, quantization: str) -> Transformers:
    return Transformers(folder, quantization_config=QUANTIZED[quantization], device_map={"": "cpu"})


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has 8-bit arithmetic would be given our own layers."""
    monkeypatch.setattr("paligemma_engine.checkpoints.quantization.cpu_computes_in_int8", lambda: False)


@pytest.fixture(scope="module")
def base(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("quantized") / "base", models_dir / DEMO_MODEL_ID)


@pytest.mark.parametrize(("quantization", "layer"), [("8bit", Linear8bitLt), ("4bit", Linear4bit)])
def test_the_text_model_is_quantised_and_answers_as_generate_does(
    models_dir: Path, sample_image: bytes, quantization: str, layer: type
) -> None:
    config = EngineConfig(
        model_id=DEMO_MODEL_ID, models_dir=models_dir, quantization=quantization, max_slots=2, max_new_tokens=40
    )
    checkpoint = load_checkpoint(config)
    text, vision = checkpoint.model.model.language_model, checkpoint.model.model.vision_tower
    assert checkpoint.is_quantized
    runner = start_runner(replace(config, compile=True), checkpoint, EngineMetrics())
    assert runner.run_options.compiled is None  # its layers look at their input on the host
    assert {type(module) for module in text.modules() if isinstance(module, torch.nn.Linear)} == {layer}
    assert {type(module) for module in vision.modules() if isinstance(module, torch.nn.Linear)} == {torch.nn.Linear}
    assert_answers_alike(config, reference_of(models_dir / DEMO_MODEL_ID, quantization), sample_image)


def test_an_adapter_is_merged_before(base: Path, sample_image: bytes, tmp_path: Path) -> None:
    models = base.parent
    plain = Transformers(base)
    lora = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
    peft.get_peft_model(plain.model, lora).save_pretrained(models / "adapter")
    merged = peft.PeftModel.from_pretrained(Transformers(base).model, models / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    plain.processor.save_pretrained(tmp_path / "merged")
    adapter_config = models / "adapter" / "adapter_config.json"
    adapter_config.write_text(adapter_config.read_text().replace(str(base), base.name))
    config = settings(models, "adapter", quantization="8bit")
    assert_answers_alike(config, reference_of(tmp_path / "merged", "8bit"), sample_image)


@pytest.mark.parametrize("quantization", ["off", "8bit"])
def test_a_checkpoint_that_is_quantised_already_stays_as_it_is(
    models_dir: Path, sample_image: bytes, tmp_path: Path, quantization: str
) -> None:
    folder = tmp_path / "quantized"
    made = reference_of(models_dir / DEMO_MODEL_ID, "4bit")
    made.model.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    config = settings(tmp_path, "quantized", quantization=quantization)
    assert_answers_alike(config, Transformers(folder, device_map={"": "cpu"}), sample_image)


def test_no_adapter_is_merged_into_a_quantised_base(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ModelFailed, match="cannot be merged into a base that is quantised"):
        load_files(settings(tmp_path, "adapter"), CheckpointFiles(tmp_path, adapter=tmp_path))


def test_four_bits_are_computed_with_in_the_engines_dtype(base: Path) -> None:
    """Without a word, bitsandbytes computes in float32, at a fraction of a GPU's rate."""
    config = replace(settings(base.parent, "base", quantization="4bit"), dtype="bfloat16")
    model = load_checkpoint(config).model
    assert model.dtype == torch.bfloat16
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}


def test_without_the_library_it_says_what_to_install(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelFailed, match=r"need bitsandbytes; install it .*--group quantization"):
        load_checkpoint(settings(base.parent, "base", quantization="4bit"))


def settings(models_dir: Path, model_id: str, **others: Any) -> EngineConfig:
    return EngineConfig(
        model_id=model_id, models_dir=models_dir, max_slots=1, max_new_tokens=NEW_TOKENS, grammar=False, **others
    )
