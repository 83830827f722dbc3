"""Chooses the next token from the text model's last hidden state."""

from typing import Any

import torch
from torch import nn

from paligemma_engine.answers.grammar import Grammar


class GreedyHead(nn.Module):
    """The model's output head, and greedy choice of the next token within the grammar."""

    forbidden: torch.Tensor
    next_state: torch.Tensor
    classes: torch.Tensor

    def __init__(self, model: Any, grammar: Grammar) -> None:
        super().__init__()
        self.lm_head = model.lm_head
        self.softcap: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        tables = {"forbidden": ~grammar.allowed, "next_state": grammar.next_state, "classes": grammar.classes}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table).to(model.device))

    def forward(
        self, hidden: torch.Tensor, grammar_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tokens, their log-probabilities, and the grammar's states after them.

        Args:
            hidden: [B, hidden], the last states of the sequences' last tokens.
            grammar_states: int64[B].

        Returns:
            int64[B], float32[B] (under the full distribution, not the one that the grammar leaves), int64[B].
        """
        logits = self._logits(hidden)
        log_sums = logits.logsumexp(-1)
        # In place, as in `_logits`: fresh memory for a few rows of 257,000 logits takes longer than what is computed.
        token_ids = logits.masked_fill_(self.forbidden[grammar_states], -torch.inf).argmax(-1)
        logprobs = logits.gather(-1, token_ids[:, None])[:, 0] - log_sums
        return token_ids, logprobs, self.next_state[grammar_states, self.classes[token_ids]]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32[B, V], with Gemma 2's softcap where the model has one.

        The softcap is taken in float32. transformers takes it in the model's dtype: in bfloat16, where logits between
        16 and 32 are multiples of 1/8, different logits become equal, and argmax takes the first. In float32
        they stay different, and answers are closer to those of the float32 model. For a float32 model there is no
        difference.
        """
        logits: torch.Tensor = self.lm_head(hidden).float()
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits
