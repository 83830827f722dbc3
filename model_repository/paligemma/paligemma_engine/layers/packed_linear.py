"""Linear layers with their weights in the order in which the processor reads them.

oneDNN reorders a plain weight in each call. Once reordered for good, a decode step of the 3B takes about 0.6 of the
time on a CPU with AVX-512 BF16, and gives the same numbers to the last bit. The reordered weight takes the plain one's
place, so that memory does not grow.
"""

from typing import Any, Final

import torch
from torch import nn

_ROWS: Final = 256  # that the order is chosen for: a prompt's; it was best or nearly so for one row, too
_X86: Final = "x86_64"


def can_pack(model: Any) -> bool:
    """Whether a model's layers gain by it: in bfloat16, on an x86 processor. The order for ARM was not tried."""
    return bool(
        model.device.type == "cpu"
        and model.dtype is torch.bfloat16
        and torch.cpu.get_capabilities()["architecture"] == _X86
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class PackedLinear(nn.Module):
    """As nn.Linear in bfloat16, to the last bit."""

    def __init__(self, linear: nn.Linear) -> None:
        """Copies the layer's weight; keeps its bias."""
        super().__init__()
        # No buffer: an opaque tensor that can be neither saved nor moved.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = linear.bias
        self.weight_bytes = linear.weight.nbytes

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """bfloat16[..., in_features] to bfloat16[..., out_features]."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden_states, self._weight, self.bias, "none", [], ""
        )
        return output
