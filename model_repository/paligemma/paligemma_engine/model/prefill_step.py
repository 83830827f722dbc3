"""The prefill of some slots. Prompts are padded on the right to a fixed length; no host sync, so graphs can hold it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from paligemma_engine.layers.last_layer import LastTokens
from paligemma_engine.model.attention import additive_mask
from paligemma_engine.model.decode_step import SlotState
from paligemma_engine.model.greedy_head import GreedyHead
from paligemma_engine.model.kv_cache import PrefillView, SlotCache
from paligemma_engine.model.transfers import Upload


@dataclass(frozen=True, slots=True)
class PrefillInputs:
    """The inputs that differ between prompts, on the device.

    Attributes:
        features: [rows, image tokens, hidden], the vision tower's output.
        text_ids: int64[rows, most text tokens]; those beyond `lengths` are padding.
        lengths: int64[rows], image tokens and text tokens without padding.
        slots: int64[rows], the sequences' slots.
        grammar_states: int64[rows], the first states of their answers.
        upload_text: for each row, fills its `text_ids`.
    """

    features: torch.Tensor
    text_ids: torch.Tensor
    lengths: torch.Tensor
    slots: torch.Tensor
    grammar_states: torch.Tensor
    upload_text: Sequence[Upload]

    @classmethod
    def allocate(cls, model: Any, *, rows: int, image_tokens: int, max_text_tokens: int) -> Self:
        """Allocates the inputs for so many prompts, each as long as a prompt can be."""
        hidden_size, device = model.config.get_text_config().hidden_size, model.device
        text_ids = torch.zeros(rows, max_text_tokens, dtype=torch.long, device=device)
        lengths, slots, grammar_states = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(3))
        return cls(
            features=torch.zeros(rows, image_tokens, hidden_size, dtype=model.dtype, device=device),
            text_ids=text_ids,
            lengths=lengths,
            slots=slots,
            grammar_states=grammar_states,
            upload_text=[Upload(row) for row in text_ids],
        )

    def first(self, rows: int) -> Self:
        """A view of the first rows."""
        return type(self)(
            features=self.features[:rows],
            text_ids=self.text_ids[:rows],
            lengths=self.lengths[:rows],
            slots=self.slots[:rows],
            grammar_states=self.grammar_states[:rows],
            upload_text=self.upload_text[:rows],
        )

    def fill(self, row: int, *, features: torch.Tensor, text_ids: list[int], slot: int, grammar_state: int) -> None:
        """Copies a prompt in, features [image tokens, hidden]; the device may still be running the previous ones."""
        self.features[row].copy_(features)
        self.upload_text[row](torch.tensor(text_ids))
        self.lengths[row].fill_(len(features) + len(text_ids))
        self.slots[row].fill_(slot)
        self.grammar_states[row].fill_(grammar_state)


class PrefillStep(nn.Module):
    """Runs the prompts in `inputs`, of at most `length` tokens; each token attends to all of its prompt.

    Padding is masked. Its keys and values are written to the slots, too; decode steps overwrite them before they read
    them.
    """

    positions: torch.Tensor
    rows: torch.Tensor

    def __init__(
        self,
        model: Any,
        cache: SlotCache,
        state: SlotState,
        greedy_head: GreedyHead,
        inputs: PrefillInputs,
        *,
        length: int,
    ) -> None:
        super().__init__()
        self.last_tokens, self.greedy_head = LastTokens(model.model.language_model), greedy_head
        self.embedding = model.get_input_embeddings()
        self.state, self.inputs = state, inputs
        self.text_length = length - inputs.features.shape[1]
        self.register_buffer("positions", torch.arange(length, device=inputs.slots.device)[None])
        self.register_buffer("rows", torch.arange(len(inputs.slots), device=inputs.slots.device))
        self.view = PrefillView(cache, slots=inputs.slots, positions=self.positions[0])

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns int64[rows] first tokens and float32[rows] log-probabilities; puts the sequences into their slots."""
        inputs = self.inputs
        text = self.embedding(inputs.text_ids[:, : self.text_length])
        hidden = self.last_tokens(
            torch.cat([inputs.features, text], dim=1),
            inputs.lengths - 1,
            mask=self._mask(),
            position_ids=self.positions + 1,  # PaliGemma counts positions from 1
            past_key_values=self.view,
        )
        token_ids, logprobs, grammar_states = self.greedy_head(hidden, inputs.grammar_states)
        self.state.set(inputs.slots, token_ids=token_ids, positions=inputs.lengths, grammar_states=grammar_states)
        return token_ids, logprobs

    def rehearse(self, number: int) -> None:
        """Puts made-up prompts in, with some padding, so that runs can be compared; no slot may be occupied.

        Each number, from 0, gives another prompt.
        """
        inputs, longest = self.inputs, self.positions.shape[1]
        inputs.features.copy_(torch.linspace(-1, 1 + number, inputs.features.numel()).view_as(inputs.features))
        inputs.text_ids.copy_(1 + number + torch.arange(inputs.text_ids.shape[1])[None])
        inputs.lengths.fill_(longest - 1 - number)
        inputs.slots.copy_(self.rows)
        inputs.grammar_states.zero_()

    def _mask(self) -> torch.Tensor:
        """An additive mask for all layers: a sliding window does not apply to the prefix."""
        return additive_mask(self.positions < self.inputs.lengths[:, None], self.inputs.features.dtype)
