"""Linear layers whose weights are stored in the processor's order.

oneDNN reorders a plain weight in each call. With weights reordered once, a decode step of the 3B takes about 0.6 of the
time on a CPU with AVX-512 BF16, and its results are bitwise equal. The reordered weight replaces the plain one, so
memory does not grow.
"""

from typing import Any, Final

import torch
from torch import nn

_ROWS: Final = 256  # number of rows that the order is chosen for: a prompt's; it was nearly the best for one row, too
_X86: Final = "x86_64"


def can_pack(model: Any) -> bool:
    """Whether packing helps: for bfloat16 on an x86 processor. It was not tried on ARM."""
    return bool(
        model.device.type == "cpu"
        and model.dtype is torch.bfloat16
        and torch.cpu.get_capabilities()["architecture"] == _X86
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class PackedLinear(nn.Module):
    """Like nn.Linear in bfloat16, bitwise equal."""

    def __init__(self, linear: nn.Linear) -> None:
        """Copies the layer's weight; keeps its bias."""
        super().__init__()
        # Not a buffer: an opaque tensor, which can be neither saved nor moved.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = linear.bias
        self.weight_bytes = linear.weight.nbytes

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps bfloat16[..., in_features] to bfloat16[..., out_features]."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden_states, self._weight, self.bias, "none", [], ""
        )
        return output
