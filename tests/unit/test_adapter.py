"""LoRA adapters: the answers are those of PEFT's own merge, and what cannot be merged is refused."""

import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
from checkpoints import DEMO_MODEL_ID, Reference, Transformers, make_random_checkpoint
from engines import ask_once
from hub_server import HubServer, Repository, hub_environment
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaForConditionalGeneration

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.answers.detokenizer import token_texts
from paligemma_engine.checkpoints.lora import merge
from paligemma_engine.errors import ModelFailed
from paligemma_engine.startup import start_engine

PROMPT = "caption en"
NEW_TOKENS = 8
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # of what peft calls


@pytest.fixture(scope="module")
def base(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("adapters") / "base", models_dir / DEMO_MODEL_ID)


def make_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    model = PaliGemmaForConditionalGeneration.from_pretrained(base)
    defaults = {"target_modules": ["q_proj", "v_proj", "gate_proj", "fc1"], "init_lora_weights": False}
    config = peft.LoraConfig(r=4, lora_alpha=16, **{**defaults, **settings})
    with warnings.catch_warnings(action="ignore"):  # of a head that is adapted
        peft.get_peft_model(model, config).save_pretrained(folder)
    rewrite(folder, base_model_name_or_path="org/base")
    return folder


def rewrite(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **settings}))


def reference(base: Path, adapter: Path, encoded: bytes) -> tuple[list[str], Reference]:
    """What PEFT makes of it."""
    merged = Transformers(base)
    merged.model = peft.PeftModel.from_pretrained(merged.model, adapter).merge_and_unload()
    generated = merged.generate(Image.open(io.BytesIO(encoded)).convert("RGB"), PROMPT, NEW_TOKENS)
    return token_texts(merged.processor.tokenizer, generated.token_ids), generated


def ask(models_dir: Path, model_id: str, encoded: bytes) -> tuple[list[str], list[float]]:
    config = EngineConfig(model_id=model_id, models_dir=models_dir, max_slots=1, max_new_tokens=NEW_TOKENS)
    tokens = ask_once(config, encoded, PROMPT).targets[0].tokens
    return [token.text for token in tokens], [token.logprob for token in tokens]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        hub_environment(monkeypatch, server.url, tmp_path)
        server.repositories["org/base"] = Repository.of(base)
        yield server


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="lora"),
        pytest.param({"use_rslora": True}, id="rslora"),
        pytest.param({"use_dora": True}, id="dora"),
        pytest.param({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 64}}, id="patterns"),
        pytest.param({"modules_to_save": ["multi_modal_projector"]}, id="whole modules"),
        pytest.param({"target_modules": ["lm_head", "q_proj"]}, id="a head of its own"),
    ],
)
def test_it_answers_as_pefts_own_merge(
    hub: HubServer, base: Path, tmp_path: Path, sample_image: bytes, settings: dict[str, Any]
) -> None:
    """Adapter and base both from the hub."""
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    hub.repositories["org/adapter"] = Repository.of(adapter)
    texts, generated = reference(base, adapter, sample_image)
    answered, logprobs = ask(tmp_path / "models", "org/adapter", sample_image)
    assert answered == texts
    assert logprobs == pytest.approx(generated.logprobs, abs=1e-4)
    assert logprobs != pytest.approx(ask(tmp_path / "models", "org/base", sample_image)[1], abs=1e-2)


def test_a_folder_with_names_of_an_older_transformers(
    hub: HubServer, base: Path, tmp_path: Path, sample_image: bytes
) -> None:
    adapter = make_adapter(base, tmp_path / "models" / "adapter")
    texts, generated = reference(base, adapter, sample_image)
    older = {
        key.replace("model.model.language_model.", "model.language_model.model.").replace(
            "model.model.vision_tower.", "model.vision_tower.vision_model."
        ): tensor
        for key, tensor in load_file(adapter / WEIGHTS).items()
    }
    assert not set(older) & set(load_file(adapter / WEIGHTS))
    save_file(older, adapter / WEIGHTS)
    answered, logprobs = ask(tmp_path / "models", "adapter", sample_image)
    assert answered == texts
    assert logprobs == pytest.approx(generated.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
        ({"rank_pattern": {"q_proj": 8}}, "does not fit its base"),
        ({"init_lora_weights": "pissa"}, "pissa changed its base, .* path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "olora changed its base"),
        ({"init_lora_weights": "corda"}, "corda changed its base"),
    ],
)
def test_what_cannot_be_merged_is_refused(base: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    rewrite(adapter, **settings)
    with pytest.raises(ModelFailed, match=said):
        merge(PaliGemmaForConditionalGeneration.from_pretrained(base), adapter)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda key: key.replace("q_proj", "nowhere"), "is nothing in its base"),
        (lambda key: key.replace("lora_A.weight", "lora_magnitude_vector"), "lora_magnitude_vector"),
        (lambda key: key.replace("lora_A", "lora_C"), "lora_C"),
    ],
)
def test_nothing_is_left_out_silently(base: Path, tmp_path: Path, change: Any, said: str) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    save_file({change(key): tensor for key, tensor in load_file(adapter / WEIGHTS).items()}, adapter / WEIGHTS)
    with pytest.raises(ModelFailed, match=said):
        merge(PaliGemmaForConditionalGeneration.from_pretrained(base), adapter)


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["lm_head"]}, {"target_modules": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}],
)
def test_a_head_that_is_the_embedding_cannot_be_adapted_alone(
    models_dir: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Merged into one of them, it would change the other, which its training left as it was."""
    adapter = make_adapter(models_dir / DEMO_MODEL_ID, tmp_path / "adapter", **settings)
    with pytest.raises(ModelFailed, match="is tied to another layer of its base"):
        merge(PaliGemmaForConditionalGeneration.from_pretrained(models_dir / DEMO_MODEL_ID), adapter)


@pytest.mark.parametrize("named", ["/etc", "../base", "a/b/c", None])
def test_a_base_is_never_a_path(base: Path, tmp_path: Path, named: str | None) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    rewrite(adapter, base_model_name_or_path=named or "")
    with pytest.raises(ModelFailed, match="is neither a hub id nor a folder's name"):
        start_engine(
            EngineConfig(model_id="adapter", models_dir=tmp_path), metrics=EngineMetrics(), on_fatal=lambda: None
        )
