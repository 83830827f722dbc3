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
_ROWS_AT_ONCE: Final = 64  # of a weight, while it is rounded: copies of so few stay in the processor's cache


class Int8Linear(nn.Module):
    """Replaces nn.Linear; returns the dtype of its input, or another one."""

    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, *, output_dtype: torch.dtype | None = None) -> None:
        """Rounds the layer's weight.

        Args:
            linear: the plain layer; it is not changed.
            output_dtype: None for the input's.
        """
        super().__init__()
        rounded, scales = _round_weight(linear.weight.detach())
        # Not a buffer: an opaque tensor, which can be neither saved nor moved.
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.long))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.output_dtype = output_dtype
        self.weight_bytes = rounded.nbytes

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features]."""
        rounded, scale = _round(hidden_states.reshape(-1, self.in_features).float())
        unsigned = rounded.view(torch.uint8).bitwise_xor_(_ZERO)  # adds _ZERO, modulo 256
        output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            unsigned, 1.0, _ZERO, self._weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        ).mul_(scale)
        if self.bias is not None:
            output += self.bias
        dtype = self.output_dtype or hidden_states.dtype
        return output.to(dtype).view(*hidden_states.shape[:-1], self.out_features)


def _round(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounds float32[R, n]; returns int8[R, n], and float32[R, 1], what to multiply each row with."""
    scales = rows.abs().amax(dim=1, keepdim=True).div_(_LARGEST).clamp_min_(_LEAST_SCALE)
    return (rows / scales).round_().to(torch.int8), scales


def _round_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounds [R, n]; returns int8[R, n] and float32[R]."""
    rounded, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    for first in range(0, len(weight), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        rounded[rows], scales[rows, None] = _round(weight[rows].float())
    return rounded, scales
