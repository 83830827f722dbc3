"""Linear layers in 8 bits for the CPU: weights and inputs are 8-bit integers, and their products are summed exactly.

    weight row j  ~  weight_scales[j] * int8        once, when the model is loaded
    input row i   ~  input_scale[i] * (uint8 - 128)     in each call, for each token separately

Each token has its own scale, and integer sums are not rounded, so an answer does not depend on the rest of the batch.
Decode steps read half as many bytes as in bfloat16. W8A8 with a scale for each channel and each token is described
in https://arxiv.org/abs/2206.01861, section 4.
"""

from typing import Final

import torch
from torch import nn

_LARGEST: Final = 127
_ZERO: Final = 128  # the input value that means 0; the kernel takes unsigned inputs
_LEAST_SCALE: Final = 1e-30  # scale of a row of zeros


class Int8Linear(nn.Module):
    """Replaces nn.Linear; returns the dtype of its input."""

    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Rounds the layer's weight."""
        super().__init__()
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(dim=1) / _LARGEST).clamp_min(_LEAST_SCALE)
        rounded = (weight / scales[:, None]).round().to(torch.int8)
        # Not a buffer: an opaque tensor, which can be neither saved nor moved.
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.long))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight_bytes = rounded.nbytes

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features]."""
        rows = hidden_states.reshape(-1, self.in_features).float()
        scale = (rows.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp_min(_LEAST_SCALE)
        rounded = (rows / scale).round_().add_(_ZERO).to(torch.uint8)
        output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        ).mul_(scale)
        if self.bias is not None:
            output += self.bias
        return output.to(hidden_states.dtype).view(*hidden_states.shape[:-1], self.out_features)
