"""Tiles of the fused attention against the shared memory of GPUs, computed by hand."""

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from paligemma_engine.device.run_options import RunOptions
from paligemma_engine.model.attention import FUSED_ATTENTION, fused_attention, use_attention
from paligemma_engine.model.fused_tiles import FusedTiles, Tiles, own_tiles_fit, tiles_within

KIB = 1024
T4, L4, A100, H100 = 64 * KIB, 99 * KIB, 163 * KIB, 227 * KIB  # for a block, where it asks for it
L4_TILES = FusedTiles(Tiles(32, 64, 2), Tiles(16, 64, 1))


@pytest.mark.parametrize(
    ("tiles", "itemsize", "kib"),
    [
        (Tiles(32, 64, 3), 2, 144),  # (32 + 2 x 64 x 2) x 256 x 2 bytes
        (Tiles(32, 64, 2), 2, 80),  # (32 + 2 x 64) x 512 bytes
        (Tiles(16, 64, 1), 2, 72),
        (Tiles(16, 32, 2), 4, 80),  # (16 + 2 x 32) x 1,024 bytes
    ],
)
def test_what_a_block_keeps(tiles: Tiles, itemsize: int, kib: int) -> None:
    assert tiles.shared_memory_bytes(head_dim=256, itemsize=itemsize) == kib * KIB


def test_where_pytorchs_own_fit_they_are_left_alone() -> None:
    assert [own_tiles_fit(card) for card in (T4, L4, A100, H100)] == [False, False, True, True]


def test_an_l4_gets_smaller_ones() -> None:
    assert tiles_within(L4, head_dim=256, itemsize=2) == L4_TILES
    assert tiles_within(L4, head_dim=256, itemsize=4) == FusedTiles(Tiles(16, 32, 2), Tiles(16, 32, 1))
    assert tiles_within(L4, head_dim=128, itemsize=2) == L4_TILES


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_what_is_chosen_fits(head_dim: int, itemsize: int) -> None:
    chosen = tiles_within(L4, head_dim=head_dim, itemsize=itemsize)
    assert chosen is not None
    for tiles in (chosen.prefill, chosen.decode):
        assert tiles.shared_memory_bytes(head_dim=head_dim, itemsize=itemsize) < L4
        assert 128 % tiles.queries == 128 % tiles.keys == 0  # a block of the mask is cut into whole tiles
        assert min(tiles.queries, tiles.keys) >= 16  # what a tensor core takes


def test_where_nothing_fits_there_are_none() -> None:
    assert tiles_within(T4, head_dim=256, itemsize=2) is None
    assert tiles_within(L4, head_dim=2048, itemsize=4) is None


def test_they_reach_the_kernel() -> None:
    assert L4_TILES.prefill.kernel_options == {"BLOCK_M": 32, "BLOCK_N": 64, "num_stages": 2}
    run_options = RunOptions.on_gpu(compiled=True, tiles=L4_TILES)
    assert str(run_options).startswith("fused attention (tiles 32x64x2_16x64x1), compiled")
    assert RunOptions.on_gpu(compiled=False, tiles=L4_TILES).tiles is None


def test_a_checkpoint_with_other_tiles_does_not_change_the_first_ones() -> None:
    """transformers keeps one function for each name, for the process."""

    class TextModel(nn.Module):
        name = ""

        def set_attn_implementation(self, name: str) -> None:
            self.name = name

    first, second, own = TextModel(), TextModel(), TextModel()
    use_attention(first, FUSED_ATTENTION, L4_TILES)
    use_attention(second, FUSED_ATTENTION, tiles_within(L4, head_dim=256, itemsize=torch.float32.itemsize))
    use_attention(own, FUSED_ATTENTION)
    functions = AttentionInterface()
    assert len({first.name, second.name, own.name}) == 3
    assert functions[first.name].keywords == {"tiles": L4_TILES}
    assert functions[own.name] is fused_attention
    before = functions[first.name]
    use_attention(TextModel(), FUSED_ATTENTION, L4_TILES)
    assert functions[first.name] is before
