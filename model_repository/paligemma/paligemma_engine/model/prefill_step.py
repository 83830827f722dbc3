"""The prefill of one slot. Prompts are padded on the right to a fixed length; no host sync, so graphs can hold it."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from paligemma_engine.model.attention import additive_mask
from paligemma_engine.model.decode_step import SlotState
from paligemma_engine.model.greedy_head import GreedyHead
from paligemma_engine.model.kv_cache import PrefillView, SlotCache
from paligemma_engine.model.transfers import Upload


@dataclass(frozen=True, slots=True)
class PrefillInputs:
    """The inputs that differ between prompts, on the device.

    Attributes:
        features: [1, image tokens, hidden], the vision tower's output.
        text_ids: int64[1, most text tokens]; those beyond `length` are padding.
        length: int64[1], image tokens and text tokens without padding.
        slot: int64[1], the sequence's slot.
        grammar_state: int64[1], the first state of its answer.
        upload_text: fills `text_ids`.
    """

    features: torch.Tensor
    text_ids: torch.Tensor
    length: torch.Tensor
    slot: torch.Tensor
    grammar_state: torch.Tensor
    upload_text: Upload

    @classmethod
    def allocate(cls, model: Any, *, image_tokens: int, max_text_tokens: int) -> Self:
        """Allocates the inputs for the longest prompt."""
        hidden_size, device = model.config.get_text_config().hidden_size, model.device
        text_ids = torch.zeros(1, max_text_tokens, dtype=torch.long, device=device)
        length, slot, grammar_state = (torch.zeros(1, dtype=torch.long, device=device) for _ in range(3))
        return cls(
            features=torch.zeros(1, image_tokens, hidden_size, dtype=model.dtype, device=device),
            text_ids=text_ids,
            length=length,
            slot=slot,
            grammar_state=grammar_state,
            upload_text=Upload(text_ids[0]),
        )

    def fill(self, *, features: torch.Tensor, text_ids: list[int], slot: int, grammar_state: int) -> None:
        """Copies the next prompt in; the device may still be running the previous one."""
        self.features.copy_(features)
        self.upload_text(torch.tensor(text_ids))
        self.length.fill_(features.shape[1] + len(text_ids))
        self.slot.fill_(slot)
        self.grammar_state.fill_(grammar_state)


class PrefillStep(nn.Module):
    """Runs the prompt in `inputs`, of at most `length` tokens; each token attends to all of them.

    Padding is masked. Its keys and values are written to the slot, too; decode steps overwrite them before they read
    them.
    """

    positions: torch.Tensor

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
        self.language_model, self.greedy_head = model.model.language_model, greedy_head
        self.embedding = model.get_input_embeddings()
        self.has_window = getattr(model.config.get_text_config(), "sliding_window", None) is not None
        self.state, self.inputs = state, inputs
        self.text_length = length - inputs.features.shape[1]
        self.register_buffer("positions", torch.arange(length, device=inputs.slot.device)[None])
        self.view = PrefillView(cache, slot=inputs.slot, positions=self.positions[0])

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns int64[1] first token and float32[1] log-probability; puts the sequence into its slot."""
        inputs = self.inputs
        text = self.embedding(inputs.text_ids[:, : self.text_length])
        hidden = self.language_model(
            inputs_embeds=torch.cat([inputs.features, text], dim=1),
            attention_mask=self._masks(),
            position_ids=self.positions + 1,  # PaliGemma counts positions from 1
            past_key_values=self.view,
            use_cache=True,
        ).last_hidden_state
        last = hidden.index_select(1, inputs.length - 1)[:, 0]
        token_ids, logprobs, grammar_states = self.greedy_head(last, inputs.grammar_state)
        self.state.set(inputs.slot, token_ids=token_ids, positions=inputs.length, grammar_states=grammar_states)
        return token_ids, logprobs

    def rehearse(self, number: int) -> None:
        """Puts a made-up prompt in, with some padding, so that runs can be compared; slot 0 may not be occupied.

        Each number, from 0, gives another prompt.
        """
        inputs, longest = self.inputs, self.positions.shape[1]
        inputs.features.copy_(torch.linspace(-1, 1 + number, inputs.features.numel()).view_as(inputs.features))
        inputs.text_ids.copy_(1 + number + torch.arange(inputs.text_ids.numel())[None])
        inputs.length.fill_(longest - 1 - number)
        inputs.slot.zero_()
        inputs.grammar_state.zero_()

    def _masks(self) -> Any:
        """Additive masks; a sliding window does not apply to the prefix, so both types of layer have the same."""
        mask = additive_mask(self.positions < self.inputs.length, self.inputs.features.dtype)
        return {"full_attention": mask, "sliding_attention": mask} if self.has_window else mask
