"""Gemma's and Gemma 2's decoder layer with few kernels, for small models in float32 on a CPU.

A decode step of a small model is some hundred kernels that take as long to start as to run. With these layers the demo
model's step takes about 0.75 of the time for one row, and 0.86 for 24. q, k and v are one product, and so are gate
and up; q and k are rotated together. Weights are stored by columns, which PyTorch multiplies a few rows with sooner
while a layer fits a core's cache; layers of 14 MB took up to 1.1 of the time. They replace the plain ones, so memory
does not grow. Results are transformers', but for rounding.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import linear
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer

from paligemma_engine.layers.mapped_files import MappedFiles

MOST_LAYER_BYTES: Final = 2 << 20  # a core's second-level cache


class CompactLayer(nn.Module):
    """Stands where transformers' layer stood, and is called as that."""

    def __init__(self, layer: Any) -> None:
        """Copies the weights; takes the norms as they are."""
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.config, self.layer_idx, self.head_dim = attention.config, attention.layer_idx, attention.head_dim
        self.scaling: float = attention.scaling
        self.softcap: float | None = getattr(attention, "attn_logit_softcapping", None)
        self.heads = attention.q_proj.out_features // self.head_dim
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.qkv = _by_columns([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o = _by_columns([attention.o_proj])
        self.gate_up, self.down = _by_columns([mlp.gate_proj, mlp.up_proj]), _by_columns([mlp.down_proj])
        self.activation = mlp.act_fn
        self.before_attention = layer.input_layernorm
        if isinstance(layer, Gemma2DecoderLayer):
            self.after_attention = layer.post_attention_layernorm
            self.before_mlp, self.after_mlp = layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm
        else:  # Gemma names the norm after what comes before it
            self.after_attention, self.after_mlp = nn.Identity(), nn.Identity()
            self.before_mlp = layer.post_attention_layernorm
        self.train(layer.training)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        past_key_values: Cache,
        **_unused: Any,
    ) -> torch.Tensor:
        """[rows, length, hidden] to the same; keys and values go through the cache."""
        qkv = linear(self.before_attention(hidden_states), self.qkv).unflatten(-1, (-1, self.head_dim))
        rotated = _rotate(qkv[:, :, : -self.kv_heads], position_embeddings).transpose(1, 2)
        queries, keys = rotated[:, : self.heads], rotated[:, self.heads :]
        values = qkv[:, :, -self.kv_heads :].transpose(1, 2)
        keys, values = past_key_values.layers[self.layer_idx].update(keys, values)
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        mixed, _ = attend(self, queries, keys, values, attention_mask, scaling=self.scaling, softcap=self.softcap)
        hidden_states = hidden_states + self.after_attention(linear(mixed.flatten(2), self.o))
        gate, up = linear(self.before_mlp(hidden_states), self.gate_up).chunk(2, dim=-1)
        outputs: torch.Tensor = hidden_states + self.after_mlp(linear(self.activation(gate).mul_(up), self.down))
        return outputs

    def keys_and_values(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Does the part of `forward` that makes keys and values, each [rows, kv_heads, length, head_dim]."""
        weight = self.qkv[self.heads * self.head_dim :]
        both = linear(self.before_attention(hidden_states), weight).unflatten(-1, (-1, self.head_dim))
        keys, values = both.chunk(2, dim=2)
        return _rotate(keys, position_embeddings).transpose(1, 2), values.transpose(1, 2)


def compact_layers(language_model: Any) -> None:
    """Replaces small layers of Gemma and Gemma 2 in float32 on a CPU, unless they have special linear layers."""
    mapped = MappedFiles.of_this_process()
    for number, layer in enumerate(language_model.layers):
        if not isinstance(layer, GemmaDecoderLayer | Gemma2DecoderLayer):
            continue
        attention, mlp = layer.self_attn, layer.mlp
        linears = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        linears += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        if all(map(_is_plain, linears)) and sum(each.weight.nbytes for each in linears) <= MOST_LAYER_BYTES:
            language_model.layers[number] = CompactLayer(layer)
            for each in linears:
                mapped.give_back(each.weight)


def _is_plain(layer: Any) -> bool:
    """Whether it is a plain linear layer (quantised ones inherit from it) on the CPU, in float32 and without bias."""
    if type(layer) is not nn.Linear or layer.bias is not None:
        return False
    return bool(layer.weight.device.type == "cpu" and layer.weight.dtype is torch.float32)


def _by_columns(linears: Sequence[nn.Linear]) -> nn.Parameter:
    """Joins the weights of layers with the same input; a column of the new one is contiguous."""
    return nn.Parameter(torch.cat([each.weight.detach().t() for each in linears], dim=1).t(), requires_grad=False)


def _rotate(states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotates [rows, length, heads, head_dim] as transformers does: halves of a head are pairs' first and second."""
    cos, sin = (each[:, :, None] for each in position_embeddings)
    rotated = states * cos
    first, second = states.chunk(2, dim=-1)
    rotated_first, rotated_second = rotated.chunk(2, dim=-1)
    sin = sin[..., : first.shape[-1]]  # both halves are the same
    rotated_first.addcmul_(second, sin, value=-1)
    rotated_second.addcmul_(first, sin)
    return rotated
