"""Settings, vocabulary, metrics, tensors, and the buckets of shapes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from engines import demo_checkpoint, load_checkpoint

from paligemma_engine import Answer, EngineConfig, EngineMetrics, to_tensors
from paligemma_engine import errors as engine_errors
from paligemma_engine import metrics as families
from paligemma_engine.answers.vocabulary import TokenClass, Vocabulary
from paligemma_engine.config import ConfigError
from paligemma_engine.device.run_options import PREFILL_ROWS, Compiled, CudaGraphs, RunOptions
from paligemma_engine.errors import EngineError, HubFailed, ModelFailed, ModelNotFound
from paligemma_engine.requests.request import TargetAnswer, Token


class TestConfig:
    def test_defaults(self) -> None:
        assert EngineConfig.from_env({}) == EngineConfig()
        on_gpu = EngineConfig.from_env({}, device="cuda:0")
        assert (on_gpu.max_slots, on_gpu.feature_cache_bytes) == (None, 256_000_000)

    def test_values(self, tmp_path: Path) -> None:
        environ = {
            "MODEL_ID": "a/b",
            "MODELS_DIR": str(tmp_path),
            "DTYPE": "BFloat16",
            "QUANTIZATION": "4bit",
            "MAX_SLOTS": "auto",
            "MAX_PENDING": "7",
            "FEATURE_CACHE_BYTES": "0",
            "GRAMMAR": "off",
            "MAX_IMAGE_PIXELS": "",
        }
        config = EngineConfig.from_env(environ)
        assert (config.model_id, config.models_dir, config.dtype) == ("a/b", tmp_path, "bfloat16")
        assert config.feature_cache_bytes == 0
        assert (config.quantization, config.max_slots, config.max_pending, config.grammar) == ("4bit", None, 7, False)
        assert config.max_image_pixels == EngineConfig().max_image_pixels

    @pytest.mark.parametrize(
        "environ",
        [
            {"MAX_SLOTS": "0"},
            {"MAX_PENDING": "-1"},
            {"MAX_NEW_TOKENS": "many"},
            {"DTYPE": "int8"},
            {"QUANTIZATION": "on"},
            {"GRAMMAR": "yes"},
        ],
    )
    def test_a_wrong_value_names_its_variable(self, environ: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match=next(iter(environ))):
            EngineConfig.from_env(environ)

    def test_where_the_token_comes_from(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("from-file\n")
        environ = {"HF_TOKEN": "from-env", "HF_TOKEN_PATH": str(tmp_path / "token")}
        assert EngineConfig.from_env(environ).hf_token == "from-env"
        assert EngineConfig.from_env({**environ, "HF_TOKEN": " "}).hf_token == "from-file"
        assert EngineConfig.from_env({"HF_TOKEN_PATH": str(tmp_path / "nowhere")}).hf_token is None


class TestVocabulary:
    def test_the_demo_models(self, models_dir: Path) -> None:
        checkpoint = demo_checkpoint(models_dir)
        ids, vocabulary = checkpoint.processor.tokenizer.get_vocab(), checkpoint.vocabulary
        for piece, expected in {
            "<loc0000>": TokenClass.LOC,
            "<loc1023>": TokenClass.LOC,
            "<seg127>": TokenClass.SEG,
            "\u2581": TokenClass.SPACE,
            "\u2581;": TokenClass.SEPARATOR,
            "<eos>": TokenClass.EOS,
            "\u2581star": TokenClass.TEXT,
            "<image>": TokenClass.NEVER,
            "<pad>": TokenClass.NEVER,
        }.items():
            assert vocabulary.class_of(ids[piece]) is expected, piece
        assert (vocabulary.classes == TokenClass.LOC).sum() == 1024
        assert (vocabulary.classes == TokenClass.SEG).sum() == 128

    def test_a_tokenizer_without_seg_tokens_is_refused(self) -> None:
        ids = {f"<loc{loc_bin:04d}>": loc_bin for loc_bin in range(1024)}
        tokenizer = SimpleNamespace(get_vocab=lambda: ids, all_special_ids=[])
        with pytest.raises(ModelFailed, match="the tokenizer has no <seg000>"):
            Vocabulary.read(tokenizer, size=1024, eos_ids=frozenset({1}))


class TestLoading:
    def test_an_unknown_model_says_what_to_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubFailed, match="nobody/nothing is not complete in the local cache, and HF_HUB_OFFLINE"):
            load_checkpoint(EngineConfig(model_id="nobody/nothing", models_dir=tmp_path))
        with pytest.raises(ModelNotFound, match=r"nothing is no folder under .*; name one, or a hub id"):
            load_checkpoint(EngineConfig(model_id="nothing", models_dir=tmp_path))

    def test_another_architecture_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(ModelFailed, match="bert is a bert checkpoint; this server serves PaliGemma"):
            load_checkpoint(EngineConfig(model_id="bert", models_dir=tmp_path))


class TestMetrics:
    def test_drain_merges_counters_and_keeps_observations(self) -> None:
        metrics = EngineMetrics()
        for _ in range(3):
            metrics.count(families.REQUESTS, outcome="ok")
            metrics.observe(families.PREFILL_SECONDS, 0.5)
        metrics.count(families.REQUESTS, outcome="internal")
        metrics.set(families.SLOTS, 4)
        metrics.set(families.SLOTS, 8)
        drained = [(sample.family.name, sample.value, sample.labels) for sample in metrics.drain()]
        assert drained == [
            ("paligemma_requests_total", 3, {"outcome": "ok"}),
            ("paligemma_requests_total", 1, {"outcome": "internal"}),
            ("paligemma_slots", 8, {}),
            *[("paligemma_prefill_seconds", 0.5, {})] * 3,
        ]
        metrics.set(families.SLOTS, 8)
        assert metrics.drain() == []

    def test_a_gauge_that_is_set_again_before_it_was_drained_is_published(self) -> None:
        """A load that failed and began anew at once was shown as no load."""
        metrics = EngineMetrics()
        metrics.set(families.MODELS_LOADING, 1, model_id="a/b")
        metrics.drain()
        metrics.remove(families.MODELS_LOADING, model_id="a/b")
        metrics.set(families.MODELS_LOADING, 1, model_id="a/b")
        assert [sample.value for sample in metrics.drain()] == [0, 1]

    def test_families_are_named_as_prometheus_wants(self) -> None:
        for family in families.FAMILIES:
            assert family.name.startswith("paligemma_")
            assert family.name.endswith("_total") == (family.kind is families.MetricKind.COUNTER)
            assert bool(family.buckets) == (family.kind is families.MetricKind.HISTOGRAM)


class TestErrors:
    def test_every_code_is_of_the_contract(self) -> None:
        kinds = [
            kind for kind in vars(engine_errors).values() if isinstance(kind, type) and issubclass(kind, EngineError)
        ]
        documented = engine_errors.__doc__ or ""
        for kind in kinds:
            if kind is not EngineError:
                assert any(
                    line.split() == [kind.__name__, kind.code, kind.status] for line in documented.splitlines()
                ), kind

    def test_the_message_starts_with_the_code(self) -> None:
        assert str(ModelFailed("sorry")) == "[model_failed] sorry"


def test_tensors_of_an_answer() -> None:
    targets = (
        TargetAnswer("a", (Token("<loc0001>", -0.5), Token(" a", -1.0)), "eos"),
        TargetAnswer("b", (), "eos"),
        TargetAnswer("c", (Token("ü", -0.25),), "length"),
    )
    tensors = to_tensors(Answer(targets, np.zeros((4, 4, 3), np.uint8), (30, 40)))
    assert tensors["tokens"].tolist() == [b"<loc0001>", b" a", "ü".encode()]
    assert tensors["logprobs"].tolist() == [-0.5, -1.0, -0.25]
    assert tensors["sequence"].tolist() == [0, 0, 2]
    assert tensors["targets"].tolist() == [b"a", b"b", b"c"]
    assert tensors["finish_reason"].tolist() == [b"eos", b"eos", b"length"]
    assert tensors["text"].tolist() == ["<loc0001> a ;  ; ü".encode()]
    assert tensors["image_size"].tolist() == [30, 40]


@pytest.mark.parametrize(
    ("slots", "on_cpu", "on_gpu"),
    [
        (1, [1], [1]),
        (2, [1, 2], [1, 2]),
        (6, [1, 2, 4, 6], [1, 2, 4, 6]),
        (8, [1, 2, 4, 8], [1, 2, 4, 8]),
        (18, [1, 2, 4, 8, 12, 16, 18], [1, 2, 4, 8, 16, 18]),
    ],
)
def test_row_buckets(slots: int, on_cpu: list[int], on_gpu: list[int]) -> None:
    assert RunOptions().row_buckets(slots) == on_cpu
    assert RunOptions.on_gpu().row_buckets(slots) == RunOptions.compiled_on_cpu().row_buckets(slots) == on_gpu


def test_length_buckets() -> None:
    assert RunOptions().length_buckets(200, prefix=64) == [96, 128, 160, 192, 200]
    assert RunOptions().length_buckets(192, prefix=64) == [96, 128, 160, 192]
    assert RunOptions().length_buckets(80, prefix=64) == [80]
    assert RunOptions.on_gpu().length_buckets(200, prefix=64) == [200]


def test_what_suits_a_model_on_the_cpu() -> None:
    small = RunOptions.on_cpu(weight_bytes=15_600_000, dtype=torch.float32, image_tokens=64)
    medium = RunOptions.on_cpu(weight_bytes=400_000_000, dtype=torch.float32, image_tokens=64)
    small_at_448 = RunOptions.on_cpu(weight_bytes=144_000_000, dtype=torch.float32, image_tokens=1024)
    large = RunOptions.on_cpu(weight_bytes=6_000_000_000, dtype=torch.bfloat16, image_tokens=256)
    rows = [options.prefill_rows for options in (small, medium, small_at_448, large)]
    assert rows == [PREFILL_ROWS, 3, 1, 1]
    assert small.length_buckets(140, prefix=64) == [96, 128, 140]
    assert large.length_buckets(140, prefix=64) == [140]


@pytest.mark.parametrize("fixed_shapes", [{"compiled": Compiled.STEPS}, {"cuda_graphs": CudaGraphs.AUTO}])
def test_steps_of_fixed_shapes_take_one_prompt(fixed_shapes: dict[str, Any]) -> None:
    """A smaller group would be captured while slots are occupied."""
    with pytest.raises(ValueError, match="one prompt each"):
        RunOptions(prefill_rows=2, **fixed_shapes)


def test_how_steps_are_run_in_words() -> None:
    assert str(RunOptions.on_gpu(compiled=True)) == "fused attention, compiled by layers, captured"
    assert str(RunOptions.compiled_on_cpu()) == "grouped attention, compiled by steps, not captured"


def test_padding_of_prompts() -> None:
    assert [RunOptions().padded(count) for count in (3, 128)] == [3, 128]
    assert [RunOptions.on_gpu().padded(count) for count in (3, 32, 33, 128)] == [32, 32, 128, 128]
