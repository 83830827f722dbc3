"""Weights in the processor's order: the same numbers, and no second copy."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from engines import load_checkpoint
from torch import nn

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.checkpoints.dtypes import cpu_computes_in_bfloat16
from paligemma_engine.layers.mapped_files import MappedFiles
from paligemma_engine.layers.packed_linear import PackedLinear, can_pack
from paligemma_engine.layers.replacement import replace_linears, weight_bytes
from paligemma_engine.startup import start_runner

pytestmark = pytest.mark.skipif(not cpu_computes_in_bfloat16(), reason="this processor has no bfloat16 arithmetic")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 20), (2, 5)])
@torch.inference_mode()
def test_it_gives_the_same_numbers(shape: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 160, bias=bias).bfloat16()
    hidden = torch.randn(*shape, 96, dtype=torch.bfloat16)
    assert torch.equal(PackedLinear(linear)(hidden), linear(hidden))


def test_plain_weights_do_not_stay() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64))).bfloat16()
    weights = [weakref.ref(weight) for weight in model.parameters() if weight.ndim > 1]
    size = weight_bytes(model)
    replace_linears([model], PackedLinear)
    gc.collect()
    assert weight_bytes(model) == size
    assert [weight() for weight in weights] == [None, None]
    assert [type(module) for module in model.modules() if not list(module.children())] == [
        PackedLinear,
        PackedLinear,
        nn.LayerNorm,
    ]


def test_a_server_packs_what_it_computes_in_bfloat16(models_dir: Path) -> None:
    config = EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir, dtype="bfloat16", max_slots=2)
    checkpoint = load_checkpoint(config)
    start_runner(config, checkpoint, EngineMetrics())
    kinds = {type(module) for module in checkpoint.model.model.modules() if "Linear" in type(module).__name__}
    assert kinds == {PackedLinear}
    assert checkpoint.model.lm_head.weight is checkpoint.model.get_input_embeddings().weight


def test_float32_stays_as_it_is(models_dir: Path) -> None:
    assert not can_pack(load_checkpoint(EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir)).model)


def test_pages_of_a_mapped_file_are_given_back(models_dir: Path, tmp_path: Path) -> None:
    make_random_checkpoint(tmp_path / "made", models_dir / DEMO_MODEL_ID, dtype=torch.bfloat16)
    model = load_checkpoint(EngineConfig(model_id="made", models_dir=tmp_path, dtype="bfloat16")).model
    mapped = MappedFiles.of_this_process()
    head = model.lm_head.weight  # some pages large
    before = head.detach().clone()
    assert 0 < mapped.give_back(head) <= head.nbytes
    assert torch.equal(head, before)  # read again, from the file
    assert mapped.give_back(before) == 0
    assert MappedFiles.of_this_process(tmp_path / "hidden") == MappedFiles(())
