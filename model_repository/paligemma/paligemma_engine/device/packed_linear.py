"""Linear layers with their weights in the order in which the processor reads them.

oneDNN reorders a plain weight in each call. Once reordered for good, a decode step of the 3B takes about 0.6 of the
time on a CPU with AVX-512 BF16, and gives the same numbers to the last bit. The reordered weight takes the plain one's
place, so that memory does not grow.
"""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import nn

from paligemma_engine.memory.mapped import MappedFiles

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


def pack_linears(modules: Iterable[nn.Module]) -> None:
    """Puts a packed layer in the place of each linear layer in these modules, one by one; other layers stay.

    Pages of mapped files that held the plain weights are given back at once: the mapping itself stays for as long as
    any tensor of the file is in use.
    """
    mapped = MappedFiles.of_this_process()
    for parent in (parent for module in modules for parent in module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:  # quantised layers inherit from it
                setattr(parent, name, PackedLinear(child))
                mapped.give_back(child.weight)


class PackedLinear(nn.Module):
    """As nn.Linear in bfloat16, to the last bit."""

    def __init__(self, linear: nn.Linear) -> None:
        """Copies the layer's weight; keeps its bias."""
        super().__init__()
        # No buffer: an opaque tensor that can be neither saved nor moved.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """bfloat16[..., in_features] to bfloat16[..., out_features]."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden_states, self._weight, self.bias, "none", [], ""
        )
        return output
