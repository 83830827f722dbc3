"""Weights in the processor's order: the same numbers, and no second copy."""

import gc
import mmap
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import DEMO_MODEL_ID
from engines import load_checkpoint
from torch import nn

from paligemma_engine import EngineConfig, EngineMetrics
from paligemma_engine.checkpoints.dtypes import cpu_computes_in_bfloat16
from paligemma_engine.layers.mapped_files import MappedFiles
from paligemma_engine.layers.packed_linear import PackedLinear
from paligemma_engine.layers.replacement import pack_linears, replace_linears, weight_bytes
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


@pytest.fixture
def in_bfloat16(models_dir: Path, tmp_path: Path) -> EngineConfig:
    """A checkpoint that is stored in bfloat16, so that its weights are views of its file."""
    demo = load_checkpoint(EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir, dtype="bfloat16"))
    for part in (demo.model, demo.processor):
        part.save_pretrained(tmp_path / "made")
    return EngineConfig(model_id="made", models_dir=tmp_path, max_slots=2)


def linears(model: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in model.modules() if "Linear" in type(module).__name__}


def test_a_server_packs_what_it_computes_in_bfloat16(in_bfloat16: EngineConfig) -> None:
    """The head, too: its weight is the embedding's, which stays in its file."""
    model = load_checkpoint(in_bfloat16).model
    embedding = model.get_input_embeddings().weight
    assert model.lm_head.weight is embedding
    before = embedding.detach().clone()
    start_runner(in_bfloat16, load_checkpoint(in_bfloat16), EngineMetrics())
    pack_linears(model)
    assert linears(model) == {PackedLinear}
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_tied_head_that_is_a_copy_stays_as_it_is(models_dir: Path) -> None:
    """The demo model is stored in float32: another copy of its embedding would take memory."""
    config = EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir, dtype="bfloat16")
    model = load_checkpoint(config).model
    pack_linears(model)
    assert linears(model.model) == {PackedLinear}
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_float32_stays_as_it_is(models_dir: Path) -> None:
    config = EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir, max_slots=1)
    checkpoint = load_checkpoint(config)
    start_runner(config, checkpoint, EngineMetrics())
    assert linears(checkpoint.model) == {nn.Linear}


def resident_bytes(tensor: torch.Tensor) -> int:
    """By the kernel's table of this process' pages: https://docs.kernel.org/admin-guide/mm/pagemap.html"""
    first, last = tensor.data_ptr() // mmap.PAGESIZE + 1, (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(8 * first)
        entries = np.frombuffer(pagemap.read(8 * (last - first)), np.uint64)
    return int((entries >> np.uint64(63)).sum()) * mmap.PAGESIZE


def test_pages_of_a_mapped_file_are_given_back(in_bfloat16: EngineConfig) -> None:
    embedding = load_checkpoint(in_bfloat16).model.get_input_embeddings().weight.detach()
    mapped = MappedFiles.of_this_process()
    assert mapped.hold(embedding)
    before = embedding.clone()
    assert resident_bytes(embedding) > 0
    mapped.give_back(embedding)
    assert resident_bytes(embedding) == 0
    assert torch.equal(embedding, before)  # read again, from the file
    assert not mapped.hold(before)


def test_what_was_written_to_is_not_given_back(in_bfloat16: EngineConfig) -> None:
    """The file does not have it."""
    embedding = load_checkpoint(in_bfloat16).model.get_input_embeddings().weight.detach()
    embedding[3] = 7.0
    mapped = MappedFiles.of_this_process()
    assert not mapped.hold(embedding)
    mapped.give_back(embedding)
    assert torch.equal(embedding[3], torch.full_like(embedding[3], 7.0))


def test_a_system_that_says_nothing_of_its_mappings(tmp_path: Path) -> None:
    assert MappedFiles.of_this_process(tmp_path / "hidden") == MappedFiles(())
