"""One token for every slot: fixed shapes, no host sync, so that a CUDA graph can hold it."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from paligemma_engine.grammar import Grammar
from paligemma_engine.slot_cache import DecodeView, SlotCache


@dataclass(frozen=True, slots=True)
class SlotState:
    """What changes from step to step, on the device, one entry for each slot.

    Attributes:
        token_ids: int64[slots], the newest token, not yet in the cache.
        positions: int64[slots], where that token goes in the slot's row, from 0.
        grammar_states: int64[slots], what may follow that token.
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

    def set(self, slot: int, *, token_id: torch.Tensor, position: int, grammar_state: torch.Tensor) -> None:
        """Puts a prefilled sequence into a slot."""
        self.token_ids[slot] = token_id
        self.positions[slot] = position
        self.grammar_states[slot] = grammar_state


class Picker(nn.Module):
    """Chooses the next token: greedy, within the grammar."""

    allowed: torch.Tensor
    next_state: torch.Tensor
    classes: torch.Tensor

    def __init__(self, grammar: Grammar) -> None:
        super().__init__()
        self.register_buffer("allowed", torch.from_numpy(grammar.allowed))
        self.register_buffer("next_state", torch.from_numpy(grammar.next_state))
        self.register_buffer("classes", torch.from_numpy(grammar.classes))

    def forward(
        self, logits: torch.Tensor, grammar_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tokens, their log-probabilities, and the grammar's states after them.

        Args:
            logits: [B, V], after the model's softcap.
            grammar_states: int64[B].

        Returns:
            int64[B], float32[B] (under the full distribution, not the one that the grammar leaves), int64[B].
        """
        logits = logits.float()
        token_ids = logits.masked_fill(~self.allowed[grammar_states], -torch.inf).argmax(-1)
        logprobs = logits.gather(-1, token_ids[:, None])[:, 0] - logits.logsumexp(-1)
        return token_ids, logprobs, self.next_state[grammar_states, self.classes[token_ids]]


class DecodeStep(nn.Module):
    """One greedy step for the first `rows` slots, occupied or not, none of which has more than `length` positions."""

    key_positions: torch.Tensor

    def __init__(
        self, model: Any, cache: SlotCache, state: SlotState, picker: Picker, *, rows: int, length: int
    ) -> None:
        super().__init__()
        text_config = model.config.get_text_config()
        self.language_model, self.lm_head, self.picker = model.model.language_model, model.lm_head, picker
        self.sliding_window: int | None = getattr(text_config, "sliding_window", None)
        self.softcap: float | None = getattr(text_config, "final_logit_softcapping", None)
        self.state = state.first(rows)
        self.view = DecodeView(cache, positions=self.state.positions, length=length)
        self.last_position = cache.max_length - 1
        self.dtype = model.lm_head.weight.dtype
        self.register_buffer("key_positions", torch.arange(length, device=state.positions.device)[None])

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """int64[rows] tokens and float32[rows] log-probabilities; moves the slots' state on by one token."""
        positions = self.state.positions[:, None]
        hidden = self.language_model(
            input_ids=self.state.token_ids[:, None],
            attention_mask=self._masks(positions),
            position_ids=positions + 1,  # PaliGemma counts positions from 1
            past_key_values=self.view,
            use_cache=True,
        ).last_hidden_state[:, 0]
        logits = self.lm_head(hidden)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        token_ids, logprobs, grammar_states = self.picker(logits, self.state.grammar_states)
        self.state.token_ids.copy_(token_ids)
        self.state.grammar_states.copy_(grammar_states)
        self.state.positions.add_(1).clamp_(max=self.last_position)  # a slot that nobody uses must not run off its row
        return token_ids, logprobs

    def _masks(self, positions: torch.Tensor) -> Any:
        """Additive masks [rows, 1, 1, L] from the positions; by layer type where the model has a sliding window."""
        written = self.key_positions <= positions
        full = self._additive(written)
        if self.sliding_window is None:
            return full
        in_window = written & (self.key_positions > positions - self.sliding_window)
        return {"full_attention": full, "sliding_attention": self._additive(in_window)}

    def _additive(self, visible: torch.Tensor) -> torch.Tensor:
        lowest = torch.finfo(self.dtype).min
        zero = torch.zeros((), dtype=self.dtype, device=visible.device)
        return torch.where(visible, zero, lowest)[:, None, None, :]
