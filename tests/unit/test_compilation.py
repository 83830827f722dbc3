"""What torch.compile asks of the steps, and that what is compiled answers the same."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from engines import demo_checkpoint, load_checkpoint
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code
from transformers import GemmaConfig

from paligemma_engine import EngineConfig
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.device import compilation
from paligemma_engine.device.run_options import Compiled, RunOptions
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.model.attention import additive_mask, fused_attention, grouped_attention
from paligemma_engine.model.fused_tiles import FusedTiles, tiles_within
from paligemma_engine.model.kv_cache import PrefillView, SlotCache

SCALING, SOFTCAP = 0.25, 5.0
SMALL_TILES = tiles_within(99 * 1024, head_dim=256, itemsize=2)  # as on an L4
COMPILER_WARNING = "ignore:`torch.jit.script_method`:DeprecationWarning"


@pytest.fixture
def checkpoint(models_dir: Path, tmp_path: Path) -> Checkpoint:
    """One of its own, since its layers are changed; it has two layers with a window and two without."""
    make_random_checkpoint(tmp_path / "random", models_dir / DEMO_MODEL_ID)
    return load_checkpoint(EngineConfig(model_id="random", models_dir=tmp_path))


@pytest.mark.parametrize("kind", ["vision", "prefill", "decode"])
def test_a_step_is_one_graph(models_dir: Path, kind: str) -> None:
    """No Python branch on data and no host sync: else no CUDA graph could hold it."""
    runner = ModelRunner(demo_checkpoint(models_dir), slots=2, max_new_tokens=16, grammar=True)
    runner.warm_up()
    kinds = {"vision": {0: runner._run_vision}, "prefill": runner._prefill_steps, "decode": runner._steps}
    step: Any = next(iter(kinds[kind].values()))
    with torch.inference_mode():
        explained = torch._dynamo.explain(step)()
        assert (explained.graph_count, explained.graph_break_count) == (1, 0)
        compiled = torch.compile(step, fullgraph=True, backend="eager")
        assert all(torch.isfinite(output).all() for output in compiled())


def test_as_many_shapes_as_there_are_in_a_thread_of_its_own(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As engines warm up; the compiler's settings are a thread's."""
    monkeypatch.setitem(compilation._OPTIONS, "backend", "eager")
    torch.compiler.reset()
    run_options = RunOptions(compiled=Compiled.LAYERS, prompt_padding=(32, 128), length_step=None)
    runner = ModelRunner(checkpoint, slots=128, max_new_tokens=16, grammar=True, run_options=run_options)
    assert len(runner._steps) + len(run_options.prompt_padding) > torch._dynamo.config.recompile_limit
    with ThreadPoolExecutor(1) as pool:
        pool.submit(runner.warm_up).result()


def test_shapes_of_all_functions_together_are_not_limited_either() -> None:
    double = torch.compile(lambda numbers: 2 * numbers, fullgraph=True, dynamic=False, backend="eager")
    with torch._dynamo.config.patch(accumulated_recompile_limit=3), compilation.unlimited():
        for count in range(2, 8):
            assert double(torch.ones(count)).shape == (count,)


def test_layers_are_compiled_once_for_each_shape_and_not_for_each_layer(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compilation._OPTIONS, "backend", "eager")
    torch.compiler.reset()
    counters.clear()
    run_options = RunOptions(compiled=Compiled.LAYERS, prompt_padding=(32, 128), length_step=None)
    ModelRunner(checkpoint, slots=4, max_new_tokens=16, grammar=True, run_options=run_options).warm_up()
    decode_rows, prefill_lengths, last_layers, picker_rows, vision = 3, 2, 2, 3, 1
    assert counters["stats"]["unique_graphs"] == decode_rows + prefill_lengths + last_layers + picker_rows + vision


@pytest.mark.filterwarnings(COMPILER_WARNING)
def test_a_compiled_prefill_does_not_copy_the_whole_cache() -> None:
    config = GemmaConfig(num_hidden_layers=1, num_key_value_heads=2, head_dim=8)
    cache = SlotCache.allocate(config, slots=61, max_length=32, dtype=torch.float32, device=torch.device("cpu"))
    view = PrefillView(cache, slots=torch.tensor([5]), positions=torch.arange(20))

    def write(states: torch.Tensor) -> Any:
        return view.update(states, states, 0)[0] + 1

    _, (code,) = run_and_get_code(torch.compile(write, fullgraph=True, dynamic=False), torch.ones(1, 2, 20, 8))
    assert "empty_strided_cpu((1, 2, 20, 8)" in code
    assert "empty_strided_cpu((61," not in code
    assert cache.keys[0].sum() == cache.keys[0][5, :, :20].sum() == 2 * 20 * 8


@pytest.mark.filterwarnings(COMPILER_WARNING)
@pytest.mark.parametrize("tiles", [None, SMALL_TILES], ids=str)
@pytest.mark.parametrize("queries", [1, 20])
def test_fused_attention_equals_grouped_attention(queries: int, tiles: FusedTiles | None) -> None:
    """By the real compiler, on part of a longer cache, with rows of several lengths and scores beyond the softcap.

    A CPU takes no notice of tiles, but the compiler must be able to read them.
    """
    rows, heads, kv_heads, length, head_dim = 2, 4, 2, 20, 16
    torch.manual_seed(0)
    query = 5 * torch.randn(rows, heads, queries, head_dim)
    key, value = (torch.randn(rows, kv_heads, length + 7, head_dim)[:, :, :length] for _ in range(2))
    mask = additive_mask(torch.arange(length) < torch.tensor([[11], [length]]), torch.float32)
    arguments = (nn.Identity(), query, key, value, mask)
    fused = torch.compile(fused_attention, fullgraph=True, dynamic=False)
    with torch.inference_mode():
        expected = grouped_attention(*arguments, scaling=SCALING, softcap=SOFTCAP)[0]
        assert torch.allclose(fused(*arguments, scaling=SCALING, softcap=SOFTCAP, tiles=tiles)[0], expected, atol=1e-5)
        unlike = grouped_attention(*arguments, scaling=SCALING, softcap=None)[0]
    assert not torch.allclose(unlike, expected, atol=1e-2)
