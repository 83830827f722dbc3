"""One token for every slot: fixed shapes, no host sync, so that a CUDA graph can hold it."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from paligemma_engine.model.attention import additive_mask
from paligemma_engine.model.greedy_head import GreedyHead
from paligemma_engine.model.kv_cache import DecodeView, SlotCache


@dataclass(frozen=True, slots=True)
class SlotState:
    """The state that decode steps change, on the device, one entry for each slot.

    Attributes:
        token_ids: int64[slots], the newest token, not yet in the cache.
        positions: int64[slots], where that token goes in the slot's row, from 0.
        grammar_states: int64[slots], the grammar's state after that token.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    grammar_states: torch.Tensor

    @classmethod
    def allocate(cls, slots: int, device: torch.device) -> Self:
        """All zeros."""
        return cls(*(torch.zeros(slots, dtype=torch.long, device=device) for _ in range(3)))

    def first(self, rows: int) -> Self:
        """A view of the first rows."""
        return type(self)(self.token_ids[:rows], self.positions[:rows], self.grammar_states[:rows])

    def set(
        self, slots: torch.Tensor, *, token_ids: torch.Tensor, positions: torch.Tensor, grammar_states: torch.Tensor
    ) -> None:
        """Puts prefilled sequences into their slots; all arguments are int64[rows]."""
        self.token_ids.index_copy_(0, slots, token_ids)
        self.positions.index_copy_(0, slots, positions)
        self.grammar_states.index_copy_(0, slots, grammar_states)


class DecodeStep(nn.Module):
    """One greedy step for the first `rows` slots, occupied or not, none of which has more than `length` positions."""

    key_positions: torch.Tensor

    def __init__(
        self, model: Any, cache: SlotCache, state: SlotState, greedy_head: GreedyHead, *, rows: int, length: int
    ) -> None:
        super().__init__()
        text_config = model.config.get_text_config()
        self.language_model, self.greedy_head = model.model.language_model, greedy_head
        self.sliding_window: int | None = getattr(text_config, "sliding_window", None)
        self.state = state.first(rows)
        self.view = DecodeView(cache, positions=self.state.positions, length=length)
        self.last_position = cache.max_length - 1
        self.dtype = model.dtype
        self.register_buffer("key_positions", torch.arange(length, device=state.positions.device)[None])

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns int64[rows] tokens and float32[rows] log-probabilities; advances the slots' state by one token."""
        positions = self.state.positions[:, None]
        hidden = self.language_model(
            input_ids=self.state.token_ids[:, None],
            attention_mask=self._masks(positions),
            position_ids=positions + 1,  # PaliGemma counts positions from 1
            past_key_values=self.view,
            use_cache=True,
        ).last_hidden_state[:, 0]
        token_ids, logprobs, grammar_states = self.greedy_head(hidden, self.state.grammar_states)
        self.state.token_ids.copy_(token_ids)
        self.state.grammar_states.copy_(grammar_states)
        self.state.positions.add_(1).clamp_(max=self.last_position)  # a free slot must not run past the end of its row
        return token_ids, logprobs

    def rehearse(self, number: int) -> None:
        """Puts made-up tokens and positions into all rows, so that runs can be compared; no slot may be occupied.

        Each number, from 0, gives other inputs.
        """
        rows = len(self.state.positions)
        row = torch.arange(rows, device=self.state.positions.device)
        self.state.token_ids.copy_(row + 1 + number)
        self.state.positions.copy_((row + 1) * self.last_position // (rows + 1 + number))
        self.state.grammar_states.zero_()

    def _masks(self, positions: torch.Tensor) -> Any:
        """Additive masks [rows, 1, 1, L] from the positions; by layer type where the model has a sliding window."""
        written = self.key_positions <= positions
        full = additive_mask(written, self.dtype)
        if self.sliding_window is None:
            return full
        in_window = written & (self.key_positions > positions - self.sliding_window)
        return {"full_attention": full, "sliding_attention": additive_mask(in_window, self.dtype)}
