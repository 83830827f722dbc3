"""The engine's tokens against transformers' own `generate`, float32 on the CPU: equal, whatever shares the batch."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from parity_cases import Case, assert_equal, differing, make_case, run

from paligemma_engine.device import compilation
from paligemma_engine.device.run_options import CudaGraphs, RunOptions
from paligemma_engine.layers.compact_layer import CompactLayer
from paligemma_engine.model import attention
from paligemma_engine.model.attention import grouped_attention
from paligemma_engine.model.decode_step import DecodeStep
from paligemma_engine.model.fused_tiles import tiles_within
from paligemma_engine.preparation.prompt_tokens import tokenize_prompt
from paligemma_engine.preparation.prompts import split_prompt

SHORT_WINDOW = 12  # the random checkpoint's prompts have 20 tokens and more
RANDOM_NEW_TOKENS = 24


@pytest.fixture(scope="module")
def demo(models_dir: Path) -> Case:
    return make_case(models_dir, DEMO_MODEL_ID, max_new_tokens=60)


@pytest.fixture(scope="module")
def random_weights(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("models")
    make_random_checkpoint(folder / "random", models_dir / DEMO_MODEL_ID, sliding_window=SHORT_WINDOW)
    return make_case(folder, "random", max_new_tokens=RANDOM_NEW_TOKENS)


@pytest.mark.parametrize("slots", [1, 4, 8])
def test_demo_checkpoint(demo: Case, slots: int) -> None:
    assert_equal(demo, run(demo, slots=slots))


def test_read_one_step_late(demo: Case) -> None:
    """As on a GPU."""
    assert_equal(demo, run(demo, slots=4, count=50, run_options=RunOptions(steps_ahead=1)))


def test_prompts_padded_to_a_bucket(random_weights: Case) -> None:
    """As on a GPU; slots are used again, so that what a longer prompt's padding left behind would be seen."""
    run_options = RunOptions(prompt_padding=(7, 128))
    assert_equal(random_weights, run(random_weights, slots=2, count=50, run_options=run_options))


@pytest.mark.parametrize("generation", [1, 2])
def test_as_compiled_on_a_gpu(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    """Layer by layer, with the fused attention: the functions that the compiler gets, without what it makes of them."""
    torch.compiler.reset()
    monkeypatch.setitem(compilation._OPTIONS, "backend", "eager")
    make_random_checkpoint(
        tmp_path / "random", models_dir / DEMO_MODEL_ID, sliding_window=SHORT_WINDOW, generation=generation
    )
    case = make_case(tmp_path, "random", max_new_tokens=RANDOM_NEW_TOKENS, count=40)
    assert len({tuple(reference.token_ids) for reference in case.references}) > 10
    tiles = tiles_within(99 * 1024, head_dim=256, itemsize=2) if generation == 2 else None
    run_options = RunOptions.on_gpu(cuda_graphs=CudaGraphs.OFF, compiled=True, tiles=tiles)
    assert_equal(case, run(case, slots=4, count=40, run_options=run_options))


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize(
    "run_options", [RunOptions(prompt_padding=(32, 128)), RunOptions.compiled_on_cpu()], ids=["plain", "steps"]
)
def test_with_transformers_own_layers(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: int, run_options: RunOptions
) -> None:
    """As on a GPU, and as compiled on a CPU, without what the compiler makes of it."""
    torch.compiler.reset()
    monkeypatch.setitem(compilation._OPTIONS, "backend", "eager")
    make_random_checkpoint(
        tmp_path / "random", models_dir / DEMO_MODEL_ID, sliding_window=SHORT_WINDOW, generation=generation
    )
    case = make_case(tmp_path, "random", max_new_tokens=12, count=12)
    with compilation.unlimited():
        assert_equal(case, run(case, slots=4, count=12, run_options=run_options))
    assert not any(isinstance(module, CompactLayer) for module in case.checkpoint.model.modules())


@pytest.mark.parametrize("slots", [1, 4, 8])
def test_random_checkpoint_with_a_window_shorter_than_the_prompt(random_weights: Case, slots: int) -> None:
    assert_equal(random_weights, run(random_weights, slots=slots))


def test_the_cases_are_worth_comparing(demo: Case, random_weights: Case) -> None:
    """Long answers, empty ones, and many different ones."""
    assert len({tuple(reference.token_ids) for reference in demo.references}) > 120
    assert sum(not reference.token_ids for reference in demo.references) > 5
    assert len({tuple(reference.token_ids) for reference in random_weights.references}) > 150
    lengths = [
        len(tokenize_prompt(random_weights.checkpoint, split_prompt(pair.prompt)[0])) for pair in random_weights.pairs
    ]
    assert min(lengths) > SHORT_WINDOW


def test_with_the_grammar_well_formed_answers_stay_the_same(demo: Case) -> None:
    sequences = run(demo, slots=8, grammar=True)
    tokenizer = demo.checkpoint.processor.tokenizer
    changed = differing(sequences, demo.references)
    for index in changed:
        text = tokenizer.decode(demo.references[index].token_ids)
        assert not is_well_formed(text, demo.pairs[index].prompt), text
    for sequence, pair in zip(sequences, demo.pairs, strict=True):
        assert is_well_formed(tokenizer.decode(sequence.token_ids), pair.prompt)


def is_well_formed(text: str, prompt: str) -> bool:
    """Whether each part between separators is a box with a mask (`segment`), or a box alone (`detect`)."""
    seg_tokens = "(<seg[0-9]{3}>){16}" if prompt.startswith("segment") else ""
    one_object = f"(<loc[0-9]{{4}}>){{4}} ?{seg_tokens}[^<>;]*"
    return re.fullmatch(f"({one_object}( ; {one_object})*)?", text) is not None


class TestNegativeControls:
    """The comparison sees what it is there to see."""

    def test_window_off_by_one(self, random_weights: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        build = DecodeStep.__init__

        def off_by_one(self: DecodeStep, *args: Any, **kwargs: Any) -> None:
            build(self, *args, **kwargs)
            assert self.sliding_window is not None
            self.sliding_window += 1

        monkeypatch.setattr(DecodeStep, "__init__", off_by_one)
        assert differing(run(random_weights, slots=4, count=40), random_weights.references)

    def test_positions_from_zero(self, random_weights: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        language_model = random_weights.checkpoint.model.model.language_model
        forward = language_model.forward

        def from_zero(*args: Any, position_ids: torch.Tensor, **kwargs: Any) -> Any:
            decoding = position_ids.shape[1] == 1
            return forward(*args, position_ids=position_ids - 1 if decoding else position_ids, **kwargs)

        monkeypatch.setattr(language_model, "forward", from_zero)
        assert differing(run(random_weights, slots=4, count=40), random_weights.references)

    def test_causal_prefix(self, random_weights: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        def causal(*tensors: torch.Tensor, **options: Any) -> Any:
            *others, query, key, value, mask = tensors
            hidden = torch.full((query.shape[2], key.shape[2]), torch.finfo(torch.float32).min / 2)
            prefilling = query.shape[2] > 1
            return grouped_attention(
                *others, query, key, value, mask + hidden.triu(1) if prefilling else mask, **options
            )

        monkeypatch.setattr(attention, "grouped_attention", causal)
        assert differing(run(random_weights, slots=4, count=40), random_weights.references)
