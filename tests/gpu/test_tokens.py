"""The engine's tokens on a GPU: those of `generate` in float32, however steps are run."""

from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID
from parity_cases import Case, assert_equal, make_case, run

from paligemma_engine.device.compilation import prepare_compiler
from paligemma_engine.device.run_options import CudaGraphs, RunOptions

COUNT = 60
SLOTS = 4  # fewer than there are prompts: slots are used again


@pytest.fixture(scope="module")
def demo(models_dir: Path, gpu: torch.device) -> Case:
    return make_case(models_dir, DEMO_MODEL_ID, max_new_tokens=60, count=COUNT, device=str(gpu))


@pytest.fixture(scope="module")
def random_weights(random_models: Path, gpu: torch.device) -> Case:
    return make_case(random_models, "random", max_new_tokens=24, count=COUNT, device=str(gpu))


@pytest.fixture
def compiler() -> None:
    prepare_compiler()
    torch.compiler.reset()


def test_step_by_step(demo: Case) -> None:
    assert_equal(demo, run(demo, slots=SLOTS, count=COUNT, run_options=RunOptions.on_gpu(cuda_graphs=CudaGraphs.OFF)))


def test_captured(demo: Case) -> None:
    """Strictly: each graph has answered as its step when the runner was made."""
    assert_equal(demo, run(demo, slots=SLOTS, count=COUNT, run_options=RunOptions.on_gpu(cuda_graphs=CudaGraphs.ON)))


def test_captured_with_a_window_shorter_than_the_prompt(random_weights: Case) -> None:
    run_options = RunOptions.on_gpu(cuda_graphs=CudaGraphs.ON)
    assert_equal(random_weights, run(random_weights, slots=SLOTS, count=COUNT, run_options=run_options))


@pytest.mark.usefixtures("compiler")
def test_captured_and_compiled(random_models: Path, gpu: torch.device) -> None:
    """A checkpoint of its own, since its layers are changed."""
    case = make_case(random_models, "random", max_new_tokens=24, count=COUNT, device=str(gpu))
    run_options = RunOptions.on_gpu(cuda_graphs=CudaGraphs.ON, compiled=True)
    assert_equal(case, run(case, slots=SLOTS, count=COUNT, run_options=run_options))


def test_bfloat16_captured_is_bfloat16_step_by_step(models_dir: Path, gpu: torch.device) -> None:
    """The same kernels on the same shapes."""
    case = make_case(models_dir, DEMO_MODEL_ID, max_new_tokens=60, count=COUNT, dtype="bfloat16", device=str(gpu))
    plain, captured = (
        run(case, slots=SLOTS, count=COUNT, run_options=RunOptions.on_gpu(cuda_graphs=graphs))
        for graphs in (CudaGraphs.OFF, CudaGraphs.ON)
    )
    assert [sequence.token_ids for sequence in captured] == [sequence.token_ids for sequence in plain]
