"""Linear layers with the same input as one layer, such as an attention's q, k and v.

In 8 bits their input is rounded once instead of three times, and one large product takes less time than three small
ones. The modules that call them stay as they are: the first layer that is called computes the outputs of all.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn


class JoinedLinears(nn.Module):
    """Computes several linear layers at once. Not thread-safe: it keeps their outputs until the last one is taken."""

    def __init__(self, linears: Sequence[nn.Linear], make: Callable[[nn.Linear], nn.Module]) -> None:
        """Args:
        linears: layers without bias, in the order in which they are called; they are not changed.
        make: returns what computes a linear layer.
        """
        super().__init__()
        self._sizes = [linear.out_features for linear in linears]
        joined = nn.Linear(linears[0].in_features, sum(self._sizes), bias=False, device="meta")
        joined.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]), requires_grad=False)
        self.layer = make(joined)
        self._input: torch.Tensor | None = None
        self._outputs: tuple[torch.Tensor, ...] = ()

    def output_of(self, number: int, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps [..., in_features] to layer `number`'s [..., out_features]."""
        if hidden_states is not self._input:
            self._input, self._outputs = hidden_states, self.layer(hidden_states).split(self._sizes, dim=-1)
        output = self._outputs[number]
        if number == len(self._sizes) - 1:
            self._input, self._outputs = None, ()  # so that their memory is free
        return output


class JoinedLinear(nn.Module):
    """One of the layers, in its old place."""

    def __init__(self, joined: JoinedLinears, number: int) -> None:
        """`number`: among the joined layers, from 0."""
        super().__init__()
        self.joined, self.number = joined, number

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps [..., in_features] to [..., out_features]."""
        return self.joined.output_of(self.number, hidden_states)
