"""The engine's tokens against transformers' own `generate`, float32 on the CPU: equal, whatever shares the batch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, Reference, Transformers, make_random_checkpoint
from engines import load_checkpoint
from PIL import Image

from demo_training.names import COLOURS
from paligemma_engine import EngineConfig, EngineMetrics, compilation
from paligemma_engine.checkpoint import Checkpoint
from paligemma_engine.decode_step import DecodeStep
from paligemma_engine.execution import CudaGraphs, Execution
from paligemma_engine.fused_tiles import tiles_within
from paligemma_engine.image_preparation import ImagePreparer
from paligemma_engine.prefill_step import PrefillStep
from paligemma_engine.prepared import PreparedPrompt
from paligemma_engine.prompt_tokens import tokenize_prompt
from paligemma_engine.prompts import split_prompt
from paligemma_engine.runner import ModelRunner
from paligemma_engine.scheduler import Scheduler
from paligemma_engine.sequence import Sequence
from scenes import SHAPES, draw_scene

PAIRS = 200
SHORT_WINDOW = 12  # the random checkpoint's prompts have 20 tokens and more
RANDOM_NEW_TOKENS = 24


@dataclass(frozen=True)
class Pair:
    image: Image.Image
    prompt: str


@dataclass(frozen=True)
class Case:
    """A checkpoint, pictures with prompts, and what transformers answers to them."""

    checkpoint: Checkpoint
    pairs: list[Pair]
    references: list[Reference]
    max_new_tokens: int


def make_pairs(count: int) -> list[Pair]:
    """Objects that are there and some that are not, to segment and to detect, one and several at once."""
    pairs = []
    for seed in range(count):
        scene = draw_scene(seed)
        colour, shape = list(COLOURS)[seed % len(COLOURS)], SHAPES[seed // 2 % len(SHAPES)]
        named = [found.name for found in scene.objects]
        prompt = [
            f"segment {named[0]}",
            f"segment {scene.objects[-1].shape}",
            f"detect {' ; '.join(named)}",
            f"segment {colour} {shape}",
            f"segment {scene.objects[0].shape} now",
        ][seed % 5]
        pairs.append(Pair(scene.image, prompt))
    return pairs


def make_case(models_dir: Path, model_id: str, *, max_new_tokens: int, count: int = PAIRS) -> Case:
    transformers = Transformers(models_dir / model_id)
    pairs = make_pairs(count)
    return Case(
        checkpoint=load_checkpoint(EngineConfig(model_id=model_id, models_dir=models_dir)),
        pairs=pairs,
        references=[transformers.generate(pair.image, pair.prompt, max_new_tokens) for pair in pairs],
        max_new_tokens=max_new_tokens,
    )


@pytest.fixture(scope="module")
def demo(models_dir: Path) -> Case:
    return make_case(models_dir, DEMO_MODEL_ID, max_new_tokens=60)


@pytest.fixture(scope="module")
def random_weights(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("models")
    make_random_checkpoint(folder / "random", models_dir / DEMO_MODEL_ID, sliding_window=SHORT_WINDOW)
    return make_case(folder, "random", max_new_tokens=RANDOM_NEW_TOKENS)


def run(case: Case, *, slots: int, grammar: bool = False, count: int = PAIRS, **options: Any) -> list[Sequence]:
    """All pairs through a runner, two arriving in every other round."""
    runner = ModelRunner(case.checkpoint, slots=slots, max_new_tokens=case.max_new_tokens, grammar=grammar, **options)
    scheduler = Scheduler(runner, EngineMetrics())
    prepare_image = ImagePreparer(case.checkpoint.processor.image_processor)
    sequences = []
    for pair in case.pairs[:count]:
        asked = split_prompt(pair.prompt)[0]
        prompt = PreparedPrompt(prepare_image(pair.image), tokenize_prompt(case.checkpoint, asked), asked)
        sequences.append(Sequence(prompt=prompt, max_new_tokens=case.max_new_tokens))
    arriving = list(sequences)
    round_number = 0
    while arriving or scheduler.has_work:
        if round_number % 2 == 0:
            scheduler.add(arriving[:2])
            del arriving[:2]
        scheduler.run_once()
        round_number += 1
    return sequences


def differing(sequences: list[Sequence], references: list[Reference]) -> list[int]:
    return [
        index
        for index, (sequence, reference) in enumerate(zip(sequences, references, strict=False))
        if sequence.token_ids != reference.token_ids
    ]


def assert_equal(case: Case, sequences: list[Sequence]) -> None:
    assert differing(sequences, case.references) == []
    for sequence, reference in zip(sequences, case.references[: len(sequences)], strict=True):
        assert sequence.logprobs == pytest.approx(reference.logprobs, abs=1e-4)


@pytest.mark.parametrize("slots", [1, 4, 8])
def test_demo_checkpoint(demo: Case, slots: int) -> None:
    assert_equal(demo, run(demo, slots=slots))


def test_read_one_step_late(demo: Case) -> None:
    """As on a GPU."""
    assert_equal(demo, run(demo, slots=4, count=50, execution=Execution(steps_ahead=1)))


def test_prompts_padded_to_a_bucket(random_weights: Case) -> None:
    """As on a GPU; slots are used again, so that what a longer prompt's padding left behind would be seen."""
    execution = Execution(prompt_padding=(7, 128))
    assert_equal(random_weights, run(random_weights, slots=2, count=50, execution=execution))


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
    execution = Execution.on_gpu(cuda_graphs=CudaGraphs.OFF, compiled=True, tiles=tiles)
    assert_equal(case, run(case, slots=4, count=40, execution=execution))


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
        def causal(step: PrefillStep) -> Any:
            hidden = torch.ones(len(step.positions[0]), len(step.positions[0])).triu(1) * torch.finfo(torch.float32).min
            return dict.fromkeys(("full_attention", "sliding_attention"), hidden[None, None])

        monkeypatch.setattr(PrefillStep, "_masks", causal)
        assert differing(run(random_weights, slots=4, count=40), random_weights.references)
