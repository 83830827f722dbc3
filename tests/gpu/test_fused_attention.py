"""The fused attention against the grouped one in float32, with PyTorch's tiles and with those of smaller GPUs."""

import pytest
import torch
from torch import nn

from paligemma_engine.device.compilation import prepare_compiler
from paligemma_engine.model.attention import additive_mask, fused_attention, grouped_attention
from paligemma_engine.model.fused_tiles import own_tiles_fit, tiles_within

HEADS, KV_HEADS, HEAD_DIM = 8, 4, 256  # of the 3B
SCALING, SOFTCAP = HEAD_DIM**-0.5, 50.0
L4_BYTES = 99 * 1024
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("small_tiles", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "queries", "length"), [(3, 1, 1408), (1, 1056, 1056)], ids=["decode", "prefill"])
def test_it_answers_the_same(
    gpu: torch.device, rows: int, queries: int, length: int, dtype: torch.dtype, small_tiles: bool
) -> None:
    shared_memory_bytes = torch.cuda.get_device_properties(gpu).shared_memory_per_block_optin
    if not small_tiles and not own_tiles_fit(shared_memory_bytes):
        pytest.skip(f"PyTorch's own tiles do not fit the {shared_memory_bytes} bytes of shared memory here")
    tiles = tiles_within(L4_BYTES, head_dim=HEAD_DIM, itemsize=dtype.itemsize) if small_tiles else None
    torch.manual_seed(0)
    query = 5 * torch.randn(rows, HEADS, queries, HEAD_DIM, dtype=dtype, device=gpu)
    key, value = (torch.randn(rows, KV_HEADS, length, HEAD_DIM, dtype=dtype, device=gpu) for _ in range(2))
    ends = torch.linspace(length // 2, length, rows, device=gpu)[:, None]
    mask = additive_mask(torch.arange(length, device=gpu) < ends, dtype)
    prepare_compiler()
    fused = torch.compile(fused_attention, fullgraph=True, dynamic=False)
    with torch.inference_mode():
        answered = fused(nn.Identity(), query, key, value, mask, scaling=SCALING, softcap=SOFTCAP, tiles=tiles)[0]
        # In float32: in bfloat16 the grouped attention rounds its scores, which the fused one does not.
        exact = [tensor.float() for tensor in (query, key, value, mask)]
        expected = grouped_attention(nn.Identity(), *exact, scaling=SCALING, softcap=SOFTCAP)[0]
    torch.testing.assert_close(answered.float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
