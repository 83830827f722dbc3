"""Gemma's RMSNorm with few kernels: `1 + weight` is computed once, and PyTorch's own function does the rest.

In transformers a norm is about ten kernels, and the 3B's text model calls 105 norms in a step.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm


class ReadyRmsNorm(nn.Module):
    """A Gemma norm with the same numbers, but for rounding: in float32, times `1 + weight`, then rounded once."""

    scale: torch.Tensor
    root_scale: torch.Tensor
    root_eps: torch.Tensor

    def __init__(self, norm: Any) -> None:
        """Takes transformers' norm; keeps a float32[hidden] of its own, since bfloat16 would round `1 + weight`."""
        super().__init__()
        self.eps: float = norm.eps
        self.register_buffer("scale", 1.0 + norm.weight.detach().float())
        root = math.sqrt(norm.weight.numel())
        self.register_buffer("root_scale", root * self.scale)
        self.register_buffer("root_eps", torch.tensor(root * math.sqrt(self.eps), device=self.scale.device))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns [..., hidden] in the input's dtype."""
        if hidden_states.device.type == "cpu" and hidden_states.dtype is torch.float32:
            # There PyTorch's own is six kernels. For n numbers, sqrt(mean square + eps) is
            # hypot(length, sqrt(n eps)) / sqrt(n).
            length: torch.Tensor = torch.linalg.vector_norm(hidden_states, dim=-1, keepdim=True)
            return (hidden_states / length.hypot_(self.root_eps)).mul_(self.root_scale)
        normed = nn.functional.rms_norm(hidden_states.float(), self.scale.shape, self.scale, self.eps)
        return normed.type_as(hidden_states)


def ready_norms(language_model: nn.Module) -> None:
    """Replaces each of Gemma's norms by a ready one, once; keeps other norms."""
    for module in list(language_model.modules()):
        for name, child in module.named_children():
            if isinstance(child, (GemmaRMSNorm, Gemma2RMSNorm)):
                setattr(module, name, ReadyRmsNorm(child))
