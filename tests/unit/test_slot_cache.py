"""Rows of the cache: what one sequence leaves behind harms no other."""

import io
from pathlib import Path

import pytest
import torch
from engines import Bench, demo_checkpoint
from PIL import Image

from paligemma_engine import EngineMetrics
from paligemma_engine.device.run_options import RunOptions
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.preparation.pixels import ImagePreparer
from paligemma_engine.preparation.prompt_tokens import tokenize_prompt
from paligemma_engine.preparation.prompts import split_prompt
from paligemma_engine.requests.prepared import PreparedPrompt
from paligemma_engine.requests.sequence import Sequence
from paligemma_engine.scheduling.scheduler import Scheduler


def run(runner: ModelRunner, prompt: PreparedPrompt) -> Sequence:
    scheduler = Scheduler(runner, EngineMetrics())
    sequence = Sequence(prompt=prompt, max_new_tokens=30)
    scheduler.add([sequence])
    while scheduler.has_work:
        scheduler.run_once()
    return sequence


@pytest.mark.parametrize("run_options", [RunOptions(), RunOptions(prompt_padding=(32, 128), length_step=None)], ids=str)
def test_a_poisoned_row_is_clean_for_the_next_sequence(
    models_dir: Path, sample_image: bytes, run_options: RunOptions
) -> None:
    """A mask does not hide NaN: 0 x NaN is NaN, and the next sequence in the slot got it, too."""
    checkpoint = demo_checkpoint(models_dir)
    runner = ModelRunner(checkpoint, slots=2, max_new_tokens=30, grammar=True, run_options=run_options)
    asked = split_prompt("segment blue star")[0]
    image = ImagePreparer(checkpoint.processor.image_processor)(Image.open(io.BytesIO(sample_image)).convert("RGB"))
    prompt = PreparedPrompt(image, tokenize_prompt(checkpoint, asked), asked)
    before = run(runner, prompt)
    assert len(before.token_ids) == 20
    with torch.inference_mode():
        for layer in (*runner._cache.keys, *runner._cache.values):
            layer.fill_(torch.nan)
    after = run(runner, prompt)
    assert (after.token_ids, after.logprobs) == (before.token_ids, before.logprobs)
    assert after.finish_reason is before.finish_reason


def test_an_answer_that_is_not_finite_is_an_error_and_the_next_one_is_right(
    models_dir: Path, sample_image: bytes
) -> None:
    """As a checkpoint that overflows in its dtype does, here for one request."""
    bench = Bench(models_dir, max_slots=1)
    try:
        expected = bench.ask(sample_image, "segment blue star")
        bench.runner.not_finite = True
        outcome = bench.ask(sample_image, "segment cyan ring")
        bench.runner.not_finite = False
        assert (outcome.code, "DTYPE=float32" in str(outcome)) == ("internal", True)
        assert bench.ask(sample_image, "segment blue star").targets == expected.targets
    finally:
        bench.engine.close(drain_timeout_s=5)
