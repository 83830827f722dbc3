"""Gemma's RMSNorm with few kernels: `1 + weight` is made ready once, and PyTorch's own function does the rest.

Written out as transformers has it, a norm is about ten kernels, and the text model of the 3B calls 105 norms a step.
"""

from typing import Any

import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm


class ReadyRmsNorm(nn.Module):
    """A Gemma norm that gives the same numbers: computed in float32, multiplied by `1 + weight`, then rounded once."""

    scale: torch.Tensor

    def __init__(self, norm: Any) -> None:
        """Takes transformers' norm; keeps a float32[hidden] of its own, since bfloat16 would round `1 + weight`."""
        super().__init__()
        self.eps: float = norm.eps
        self.register_buffer("scale", 1.0 + norm.weight.detach().float())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., hidden], in the dtype that it comes in."""
        normed = nn.functional.rms_norm(hidden_states.float(), self.scale.shape, self.scale, self.eps)
        return normed.type_as(hidden_states)


def ready_norms(language_model: nn.Module) -> None:
    """Puts a ready norm in the place of each of Gemma's, once; other norms stay."""
    for module in list(language_model.modules()):
        for name, child in module.named_children():
            if isinstance(child, (GemmaRMSNorm, Gemma2RMSNorm)):
                setattr(module, name, ReadyRmsNorm(child))
