"""Attention for the text model: grouped queries without copying keys and values, with Gemma 2's softcap."""

from typing import Any, Final

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

GROUPED_ATTENTION: Final = "grouped"


def register() -> None:
    """Makes the function known to transformers as an attention implementation.

    The mask function belongs to it: without one, transformers passes the mask None, silently.
    """
    AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
    AttentionMaskInterface.register(GROUPED_ATTENTION, eager_mask)


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
    scores = torch.matmul(query.reshape(batch, kv_heads, group * queries, head_dim), key.transpose(2, 3)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        grouped_scores = scores.view(batch, kv_heads, group, queries, length) + attention_mask[:, :, None]
        scores = grouped_scores.view(batch, kv_heads, group * queries, length)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = torch.matmul(weights, value).view(batch, heads, queries, head_dim)
    return output.transpose(1, 2).contiguous(), None


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores [B, ..., L] for bool[B, L], the same for all heads and queries: [B, 1, 1, L]."""
    zero = torch.zeros((), dtype=dtype, device=visible.device)
    return torch.where(visible, zero, torch.finfo(dtype).min)[:, None, None, :]
