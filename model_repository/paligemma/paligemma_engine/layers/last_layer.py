"""The text model in a prefill, where only each prompt's last token is wanted: the last layer computes little else.

    layers but the last               [rows, length, hidden]
    last layer's keys and values      [rows, kv_heads, length, head_dim], which decode steps read, too
    the rest of it, and the norm      [rows, 1, hidden], nine tenths of a layer's products

Results are those of the whole layer, but for rounding.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.models.gemma.modeling_gemma import GemmaModel, rotate_half
from transformers.models.gemma2.modeling_gemma2 import Gemma2Model

from paligemma_engine.layers.compact_layer import CompactLayer


class LastTokens(nn.Module):
    """Runs a text model for one token of each row. Models other than Gemma and Gemma 2 run as a whole."""

    def __init__(self, language_model: Any) -> None:
        """Keeps transformers' model, and does not change it."""
        super().__init__()
        self.language_model = language_model
        self.is_gemma = isinstance(language_model, GemmaModel | Gemma2Model)
        self.has_window = getattr(language_model.config, "sliding_window", None) is not None

    def forward(
        self,
        embeddings: torch.Tensor,
        last: torch.Tensor,
        *,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: Cache,
    ) -> torch.Tensor:
        """Returns [rows, hidden], the model's last hidden states; writes keys and values of all tokens to the cache.

        Args:
            embeddings: [rows, length, hidden].
            last: int64[rows], which token of each row is wanted.
            mask: [rows, 1, 1, length], added to the scores in all layers.
            position_ids: int64[1, length].
            past_key_values: keeps keys and values; it gives those back that it got.
        """
        model: Any = self.language_model
        rows = torch.arange(len(last), device=last.device)
        if not self.is_gemma:
            hidden: torch.Tensor = model(
                inputs_embeds=embeddings,
                attention_mask={"full_attention": mask, "sliding_attention": mask} if self.has_window else mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=True,
            ).last_hidden_state
            return hidden[rows, last]
        *layers, last_layer = model.layers
        hidden, rotations = embeddings, model.rotary_emb(embeddings, position_ids)
        for layer in layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotations, past_key_values=past_key_values)
        keys, values = (
            last_layer.keys_and_values(hidden, rotations)
            if isinstance(last_layer, CompactLayer)
            else _keys_and_values(last_layer, hidden, rotations)
        )
        given = _Given(*past_key_values.update(keys, values, len(layers)))
        hidden = last_layer(
            hidden[rows, last][:, None],
            attention_mask=mask,
            position_embeddings=tuple(rotation[0, last][:, None] for rotation in rotations),
            past_key_values=Cache(layers=[given] * len(model.layers)),
        )
        normed: torch.Tensor = model.norm(hidden)
        return normed[:, 0]


def _keys_and_values(
    layer: Any, hidden: torch.Tensor, rotations: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Does the part of transformers' layer that makes keys and values, each [rows, kv_heads, length, head_dim].

    Keys come first: joined layers compute all their outputs then, q's too, and free them with the values.
    """
    attention, (cos, sin) = layer.self_attn, rotations
    states = layer.input_layernorm(hidden)
    shape = (*states.shape[:-1], -1, attention.head_dim)
    keys, values = (project(states).view(shape).transpose(1, 2) for project in (attention.k_proj, attention.v_proj))
    return keys * cos[:, None] + rotate_half(keys) * sin[:, None], values


class _Given(CacheLayerMixin):  # type: ignore[misc]  # transformers' classes are untyped
    """Keys and values that are all there: a token's own, which its layer computes once more, are among them."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do."""

    def update(self, *_: Any, **__: Any) -> Any:
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Not used: positions are always passed explicitly."""
        return 0

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        del query_length
        return int(self.keys.shape[2]), 0
