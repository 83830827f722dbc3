"""Checkpoints of each kind, from a local hub into an engine: its tokens equal those of `generate`."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, Transformers, make_random_checkpoint
from engines import ask_once, load_checkpoint
from hub_server import HubServer, Repository, hub_environment
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaForConditionalGeneration

from paligemma_engine import EngineConfig
from paligemma_engine.answers.detokenizer import token_texts
from paligemma_engine.errors import HubFailed, ModelFailed

NEW_TOKENS = 12
PROMPT = "caption en"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        hub_environment(monkeypatch, server.url, tmp_path)
        yield server


@pytest.mark.parametrize(
    ("generation", "dtype", "shard_size"),
    [
        (1, torch.float32, "5GB"),
        (1, torch.bfloat16, "200KB"),
        (2, torch.float32, "200KB"),
        (2, torch.bfloat16, "5GB"),
    ],
)
def test_it_answers_as_generate_does(
    hub: HubServer,
    models_dir: Path,
    sample_image: bytes,
    tmp_path: Path,
    generation: int,
    dtype: torch.dtype,
    shard_size: str,
) -> None:
    """In float32, whatever the files hold."""
    demo = models_dir / DEMO_MODEL_ID
    folder = make_random_checkpoint(
        tmp_path / "made", demo, generation=generation, dtype=dtype, shard_size=shard_size, seed=generation
    )
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard_size != "5GB")
    hub.repositories["org/made"] = Repository.of(folder)
    reference = Transformers(folder, dtype=torch.float32)
    image = Image.open(io.BytesIO(sample_image)).convert("RGB")
    expected = reference.generate(image, PROMPT, NEW_TOKENS)
    settings: dict[str, Any] = {"max_slots": 2, "max_new_tokens": NEW_TOKENS, "dtype": "float32"}
    config = EngineConfig(model_id="org/made", models_dir=tmp_path / "models", **settings)
    (target,) = ask_once(config, sample_image, PROMPT).targets
    assert [token.text for token in target.tokens] == token_texts(reference.processor.tokenizer, expected.token_ids)
    assert [token.logprob for token in target.tokens] == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.fixture
def made(models_dir: Path, tmp_path: Path) -> Path:
    return make_random_checkpoint(tmp_path / "made", models_dir / DEMO_MODEL_ID)


def test_weights_that_are_cut_off_are_refused(made: Path) -> None:
    weights = made / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refuses(made, r"model\.safetensors cannot be read")


def test_weights_that_lack_some_are_refused(made: Path) -> None:
    """transformers would fill them in with random numbers."""
    tensors = load_file(made / "model.safetensors")
    del tensors[next(name for name in tensors if "q_proj" in name)]
    save_file(tensors, made / "model.safetensors", {"format": "pt"})
    refuses(made, r"made lacks weights \(1, such as .*q_proj")


def test_pickled_weights_alone_are_refused(made: Path) -> None:
    (made / "model.safetensors").rename(made / "pytorch_model.bin")
    refuses(made, r"no model.safetensors in its folder; only safetensors are read")


def test_a_tokenizer_without_seg_tokens_is_refused(made: Path) -> None:
    tokenizer = made / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<seg007>", "<gone>"))
    refuses(made, "the tokenizer has no <seg007>")


def test_code_of_a_checkpoint_is_never_run(made: Path, tmp_path: Path) -> None:
    """Neither by a folder nor by a config that asks for it."""
    (made / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = json.loads((made / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoProcessor": "evil.Evil"}
    (made / "config.json").write_text(json.dumps(config))
    load_checkpoint(EngineConfig(model_id="made", models_dir=made.parent))
    assert not (tmp_path / "ran").exists()


def test_loads_at_once_do_not_disturb_each_other(models_dir: Path) -> None:
    """transformers switches weight tying off for the whole process while it loads."""
    config = EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(load_checkpoint, [config] * 8))
    for checkpoint in loaded:
        model = checkpoint.model
        assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_download_that_failed_is_not_loaded(hub: HubServer, made: Path, tmp_path: Path) -> None:
    hub.repositories["org/made"] = Repository.of(made, corrupt=True)
    config = EngineConfig(model_id="org/made", models_dir=tmp_path / "models")
    with pytest.raises(HubFailed, match="wrong checksum"):
        load_checkpoint(config)
    hub.repositories["org/made"].corrupt = False
    load_checkpoint(config)


def test_weights_go_straight_to_the_device(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host never holds a copy of all of them. PyTorch's `meta` stands in for a device that is not the host."""
    devices: set[str] = set()
    original = PaliGemmaForConditionalGeneration.from_pretrained

    def noted(*arguments: Any, **options: Any) -> Any:
        model, report = original(*arguments, **options)
        devices.update(parameter.device.type for parameter in model.parameters())
        return model, report

    monkeypatch.setattr(PaliGemmaForConditionalGeneration, "from_pretrained", noted)
    load_checkpoint(EngineConfig(model_id="made", models_dir=made.parent, device="meta"))
    assert devices == {"meta"}


def refuses(folder: Path, said: str) -> None:
    with pytest.raises(ModelFailed, match=said):
        load_checkpoint(EngineConfig(model_id=folder.name, models_dir=folder.parent))
