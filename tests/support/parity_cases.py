"""Pictures with prompts, what transformers answers to them, and the engine's answers, in batches that change."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkpoints import Reference, Transformers
from engines import load_checkpoint
from PIL import Image

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.device.run_options import RunOptions
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.layers.replacement import weight_bytes
from paligemma_engine.preparation.pixels import ImagePreparer
from paligemma_engine.preparation.prompt_tokens import tokenize_prompt
from paligemma_engine.preparation.prompts import split_prompt
from paligemma_engine.requests.prepared import PreparedPrompt
from paligemma_engine.requests.sequence import Sequence
from paligemma_engine.scheduling.scheduler import Scheduler
from parts.scenes import SHAPES, draw_scene
from parts.training.names import COLOURS

PAIRS = 200


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


def make_case(
    models_dir: Path,
    model_id: str,
    *,
    max_new_tokens: int,
    count: int = PAIRS,
    dtype: str = "float32",
    device: str = "cpu",
) -> Case:
    transformers = Transformers(models_dir / model_id, dtype=dtype, device=device)
    pairs = make_pairs(count)
    return Case(
        checkpoint=load_checkpoint(EngineConfig(model_id=model_id, models_dir=models_dir, dtype=dtype, device=device)),
        pairs=pairs,
        references=[transformers.generate(pair.image, pair.prompt, max_new_tokens) for pair in pairs],
        max_new_tokens=max_new_tokens,
    )


def run(
    case: Case, *, slots: int, grammar: bool = False, count: int = PAIRS, at_once: int = 2, **options: Any
) -> list[Sequence]:
    """All pairs through a runner, as a server on the CPU has it, so many arriving in every other round."""
    model = case.checkpoint.model
    options.setdefault(
        "run_options",
        RunOptions.on_cpu(
            weight_bytes=weight_bytes(model), dtype=model.dtype, image_tokens=case.checkpoint.image_token_count
        ),
    )
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
            scheduler.add(arriving[:at_once])
            del arriving[:at_once]
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
