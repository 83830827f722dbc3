"""What an engine takes of a GPU's memory, against what was planned; and a slot that held what is not a number."""

from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID
from engines import load_checkpoint
from parity_cases import make_pairs

from paligemma_engine import EngineConfig
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.checkpoints.loading import to_checkpoint
from paligemma_engine.device.run_options import CudaGraphs, RunOptions
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.memory.release import release_memory
from paligemma_engine.memory.slot_plan import MARGIN_BYTES, MemoryNeed
from paligemma_engine.preparation.pixels import ImagePreparer
from paligemma_engine.preparation.prompt_tokens import slot_length, tokenize_prompt
from paligemma_engine.preparation.prompts import split_prompt
from paligemma_engine.requests.prepared import PreparedPrompt
from parts.gpu_benchmark.architecture import PALIGEMMA2_3B_448, make_model, make_processor

MAX_NEW_TOKENS = 64
FEATURE_CACHE_BYTES = 100_000_000
DECODE_STEPS = 4


def prompts_for(checkpoint: Checkpoint, count: int) -> list[PreparedPrompt]:
    prepare = ImagePreparer(checkpoint.processor.image_processor)
    prompts = []
    for pair in make_pairs(count):
        asked = split_prompt("segment red star")[0]
        prompts.append(PreparedPrompt(prepare(pair.image), tokenize_prompt(checkpoint, asked), asked))
    return prompts


def fill_and_decode(runner: ModelRunner, checkpoint: Checkpoint) -> None:
    for slot, prompt in enumerate(prompts_for(checkpoint, runner.slots)):
        runner.prefill({slot: prompt}, runner.start_vision([prompt.image], running=slot), running=slot).read()
    for _ in range(DECODE_STEPS):
        runner.decode(range(runner.slots)).read()


@pytest.mark.parametrize("slots", [4, 64])
@pytest.mark.parametrize("graphs", [CudaGraphs.OFF, CudaGraphs.ON])
def test_the_plan_is_an_upper_bound(gpu: torch.device, graphs: CudaGraphs, slots: int) -> None:
    """The 3B's widths with few layers, so that what steps need is large beside keys and values."""
    architecture = PALIGEMMA2_3B_448.cut_down(vision_layers=2, layers=4)
    model = make_model(architecture, device=gpu, dtype=torch.bfloat16)
    checkpoint = to_checkpoint("random", model, make_processor(architecture))
    need = MemoryNeed.of(
        model.config.get_text_config(),
        prompt_length=slot_length(checkpoint, max_new_tokens=0),
        max_new_tokens=MAX_NEW_TOKENS,
        dtype=torch.bfloat16,
        feature_cache_bytes=FEATURE_CACHE_BYTES,
        captured=graphs is CudaGraphs.ON,
    )
    release_memory()
    torch.cuda.reset_peak_memory_stats(gpu)
    allocated_before, reserved_before = torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)
    runner = ModelRunner(
        checkpoint,
        slots=slots,
        max_new_tokens=MAX_NEW_TOKENS,
        grammar=True,
        feature_cache_bytes=FEATURE_CACHE_BYTES,
        run_options=RunOptions.on_gpu(cuda_graphs=graphs),
    )
    runner.warm_up()
    fill_and_decode(runner, checkpoint)
    allocated = torch.cuda.max_memory_allocated(gpu) - allocated_before
    release_memory()
    reserved = torch.cuda.memory_reserved(gpu) - reserved_before
    planned = need.for_slots(slots)
    print(f"{graphs}, {slots} slots: planned {planned}, allocated at most {allocated}, reserved in the end {reserved}")
    assert slots * need.slot_bytes < allocated < planned - MARGIN_BYTES // 2
    assert reserved < planned


@pytest.mark.parametrize("graphs", [CudaGraphs.OFF, CudaGraphs.ON])
def test_a_slot_that_held_no_numbers_is_clean_again(models_dir: Path, gpu: torch.device, graphs: CudaGraphs) -> None:
    """A masked position is multiplied by 0, and 0 times NaN is NaN."""
    checkpoint = load_checkpoint(
        EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir, device=str(gpu), dtype="bfloat16")
    )
    run_options = RunOptions.on_gpu(cuda_graphs=graphs)
    runner = ModelRunner(checkpoint, slots=2, max_new_tokens=MAX_NEW_TOKENS, grammar=True, run_options=run_options)
    runner.warm_up()
    for layer in (*runner._cache.keys, *runner._cache.values):
        layer[1].fill_(torch.nan)
    prompt = prompts_for(checkpoint, 1)[0]
    picked = [runner.prefill({1: prompt}, runner.start_vision([prompt.image], running=0), running=0).read()[1]]
    picked += [runner.decode([1]).read()[1] for _ in range(DECODE_STEPS)]
    assert all(torch.isfinite(torch.tensor(token.logprob)) for token in picked)
