"""torch.compile, for a whole step or one layer at a time.

The code compiled for the first layer serves all layers of its kind, so that compile time does not grow with depth: https://docs.pytorch.org/tutorials/recipes/regional_compilation.html
"""

import locale
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, TypeVar

import torch
from torch import nn

_OPTIONS: Final[dict[str, Any]] = {"fullgraph": True, "dynamic": False}
_NO_LIMIT: Final = 1 << 16

Output = TypeVar("Output")


def prepare_compiler() -> None:
    """Sets process-wide options; call it before any compilation."""
    # Triton's stub starts Python without a locale, whatever the environment says. The compiler would then read its own
    # sources, which are UTF-8, as ASCII.
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def unlimited() -> AbstractContextManager[object]:
    """Lifts the compiler's limit for the calling thread, around calls that compile.

    Each shape and each loaded checkpoint counts as another version of the same function; by default the compiler makes
    at most 8.
    """
    patch: AbstractContextManager[object] = torch._dynamo.config.patch(
        recompile_limit=_NO_LIMIT, accumulated_recompile_limit=_NO_LIMIT
    )
    return patch


def compile_step(step: Callable[[], Output]) -> Callable[[], Output]:
    """A step of fixed shapes as one function."""
    return torch.compile(step, **_OPTIONS)


class _OneLayerCache:
    """One layer's part of a cache, for that layer only.

    Transformers' attention passes its layer number, and the compiler would make a function for each number.
    """

    def __init__(self, layer_cache: Any) -> None:
        self._layer_cache = layer_cache

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any) -> Any:
        return self._layer_cache.update(key_states, value_states)


def compile_layers(model: Any, greedy_head: nn.Module) -> None:
    """Compiles the model's layers in place, and the greedy head."""
    for layer in model.model.vision_tower.encoder.layers:
        layer.compile(**_OPTIONS)
    for number, layer in enumerate(model.model.language_model.layers):
        compiled = torch.compile(type(layer).forward, **_OPTIONS)
        layer.forward = partial(_run_layer, compiled, layer, number)
    greedy_head.compile(**_OPTIONS)


def _run_layer(
    compiled: Callable[..., torch.Tensor],
    layer: nn.Module,
    number: int,
    hidden_states: torch.Tensor,
    *,
    past_key_values: Any,
    **rest: Any,
) -> torch.Tensor:
    return compiled(layer, hidden_states, past_key_values=_OneLayerCache(past_key_values.layers[number]), **rest)
