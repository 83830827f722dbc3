"""The KV cache of all slots, and the two views of it for transformers' model.

A slot is a row of the cache. A prefill writes each prompt's keys and values into one row; a decode step writes one
position of every row and reads all rows:

    slot 0   k k k k k k . . .      prefill view: [slot, :, 0:n] <- each prompt's n keys; attention sees them raw
    slot 1   k k k . . . . . .
    slot 2   k k k k k . . . .      decode view: [row, :, position[row]] <- one key a row; all rows are seen to `length`

Values of a slot's earlier sequence are masked: a sequence sees only positions that it has written itself. But a mask
does not hide a value that is not finite, since 0 times NaN is NaN. So a row is cleared before each prefill.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True, slots=True)
class SlotCache:
    """Keys and values of every layer: each [slots, kv_heads, max_length, head_dim], allocated once."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    @classmethod
    def allocate(
        cls, text_config: Any, *, slots: int, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> Self:
        """An empty cache for a text model's configuration."""
        shape = (slots, text_config.num_key_value_heads, max_length, text_config.head_dim)
        layers = range(text_config.num_hidden_layers)
        return cls(
            keys=[torch.zeros(shape, dtype=dtype, device=device) for _ in layers],
            values=[torch.zeros(shape, dtype=dtype, device=device) for _ in layers],
        )

    @property
    def slots(self) -> int:
        """Number of rows."""
        return self.keys[0].shape[0]

    @property
    def max_length(self) -> int:
        """Number of positions of a row."""
        return self.keys[0].shape[2]

    def clear(self, slots: Iterable[int]) -> None:
        """Sets rows to zero, in place."""
        layers = (*self.keys, *self.values)
        torch._foreach_zero_([layer[slot] for slot in slots for layer in layers])


class _LayerView(CacheLayerMixin):  # type: ignore[misc]  # transformers' classes are untyped
    """What the two views of a layer share."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the memory is there."""

    def get_seq_length(self) -> int:
        """Not used: positions are always passed explicitly."""
        return 0

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


class _PrefillLayer(_LayerView):
    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor) -> None:
        super().__init__(keys, values)
        self._slots, self._positions = slots[:, None], positions

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        # Indices instead of slices: the compiler copies the whole tensor, with all slots, to write to a slice.
        self.keys[self._slots, :, self._positions] = key_states.transpose(1, 2)
        self.values[self._slots, :, self._positions] = value_states.transpose(1, 2)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


class _DecodeLayer(_LayerView):
    def __init__(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        rows = len(positions)
        super().__init__(keys[:rows], values[:rows])
        self.is_initialized = True
        self._rows = torch.arange(rows, device=keys.device)
        self._positions = positions
        self._length = length

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        self.keys[self._rows, :, self._positions] = key_states[:, :, 0]
        self.values[self._rows, :, self._positions] = value_states[:, :, 0]
        return self.keys[:, :, : self._length], self.values[:, :, : self._length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        del query_length
        return self._length, 0


class PrefillView(Cache):  # type: ignore[misc]
    """Writes the prompts of a prefill, each into its slot."""

    def __init__(self, cache: SlotCache, *, slots: torch.Tensor, positions: torch.Tensor) -> None:
        """`slots` int64[rows] is read at every prefill; `positions` int64[length] counts a prompt, padding included."""
        layers = zip(cache.keys, cache.values, strict=True)
        super().__init__(layers=[_PrefillLayer(keys, values, slots, positions) for keys, values in layers])


class DecodeView(Cache):  # type: ignore[misc]
    """Writes one position of each of the first rows, and reads the first `length` positions of each.

    A free slot's position may be beyond `length`: it still writes to its own row, and its output is not used.
    """

    def __init__(self, cache: SlotCache, *, positions: torch.Tensor, length: int) -> None:
        """`positions` int64[rows] is read at every step; it says where in its row each slot writes."""
        layers = zip(cache.keys, cache.values, strict=True)
        super().__init__(layers=[_DecodeLayer(keys, values, positions, length) for keys, values in layers])
