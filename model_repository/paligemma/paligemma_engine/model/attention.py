"""Attention for the text model: grouped queries without copying keys and values, with Gemma 2's softcap.

Two functions with the same result: `grouped` runs anywhere; `fused` does not store the scores, provided that
torch.compile makes one kernel of it.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from paligemma_engine.model.fused_tiles import FusedTiles

GROUPED_ATTENTION: Final = "grouped"
FUSED_ATTENTION: Final = "fused"
_KEY_BLOCK: Final = 128


def use_attention(language_model: Any, name: str, tiles: FusedTiles | None = None) -> None:
    """Makes transformers' text model use one of the two. `tiles` belong to the fused one; None for PyTorch's own.

    Each needs a mask function: without one, transformers silently passes None as the mask.
    """
    function: Callable[..., Any] = grouped_attention if name == GROUPED_ATTENTION else fused_attention
    if tiles is not None:
        # A name of its own: transformers looks functions up by name, for all checkpoints in the process.
        name, function = f"{name}_{tiles}", _fused_with(tiles)
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, eager_mask)
    language_model.set_attn_implementation(name)


@cache
def _fused_with(tiles: FusedTiles) -> Callable[..., Any]:
    """Returns the same function object for the same tiles: a new object would make the compiler compile again."""
    return partial(fused_attention, tiles=tiles)


def grouped_attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    softcap: float | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' eager attention, in its order of operations, with the query heads of a group as rows of one matrix.

    Args:
        query: [B, heads, Q, head_dim].
        key: [B, kv_heads, L, head_dim].
        value: [B, kv_heads, L, head_dim].
        attention_mask: [B, 1, Q, L], added to the scores.
        scaling: factor on the scores.
        softcap: bound of the scores before the mask; None for none.

    Returns:
        [B, Q, heads, head_dim], and None for the weights.
    """
    batch, heads, queries, head_dim = query.shape
    kv_heads, length = key.shape[1], key.shape[2]
    group = heads // kv_heads
    rows = query.reshape(batch * kv_heads, group * queries, head_dim)
    # In place, since nothing else sees these scores: fresh memory for them takes longer than the arithmetic.
    scores = torch.bmm(rows, key.flatten(0, 1).transpose(1, 2)).mul_(scaling)
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    if attention_mask is not None:
        scores.view(batch, kv_heads, group, queries, length).add_(attention_mask[:, :, None])
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = torch.bmm(weights, value.flatten(0, 1)).view(batch, heads, queries, head_dim)
    return output.transpose(1, 2).contiguous(), None


def fused_attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    softcap: float | None = None,
    tiles: FusedTiles | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Like `grouped_attention`, with an attention_mask [B, 1, 1, L] for all queries, in `tiles` on a GPU."""

    def softcapped_and_masked(
        score: torch.Tensor, row: torch.Tensor, _head: torch.Tensor, _query: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        return score if attention_mask is None else score + attention_mask[row, 0, 0, position]

    decoding = query.shape[2] == 1
    tiles_now = None if tiles is None else tiles.decode if decoding else tiles.prefill
    output = flex_attention(
        query,
        key,
        value,
        score_mod=softcapped_and_masked,
        block_mask=_all_blocks(key.shape[2], key.device) if decoding else None,
        scale=scaling,
        enable_gqa=True,
        kernel_options=None if tiles_now is None else tiles_now.kernel_options,
    )
    return output.transpose(1, 2).contiguous(), None


def _all_blocks(length: int, device: torch.device) -> BlockMask:
    """A mask that lets every query see all keys.

    Without it the GPU kernel for one query treats all keys as one block, and runs on one multiprocessor.
    """
    count = -(-length // _KEY_BLOCK)
    return BlockMask.from_kv_blocks(
        torch.full((1, 1, 1), count, dtype=torch.int32, device=device),
        torch.arange(count, dtype=torch.int32, device=device)[None, None, None],
        BLOCK_SIZE=_KEY_BLOCK,
        seq_lengths=(1, length),
        compute_q_blocks=False,
    )


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns [B, 1, 1, L], to be added to scores, from bool[B, L]: the same for all heads and queries."""
    zero = torch.zeros((), dtype=dtype, device=visible.device)
    return torch.where(visible, zero, torch.finfo(dtype).min)[:, None, None, :]
