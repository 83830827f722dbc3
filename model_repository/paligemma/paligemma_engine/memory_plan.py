"""How many slots a GPU's free memory allows, decided when the weights are there and before the first request.

free memory  =  slots x (its keys and values + its row of a step)  +  a prefill  +  image features  +  a margin
"""

import logging
from dataclasses import dataclass
from typing import Any, Final, Self

import torch

from paligemma_engine.checkpoint import Checkpoint
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import ModelFailed
from paligemma_engine.memory import free_gpu_bytes
from paligemma_engine.prompt_tokens import slot_length

_log = logging.getLogger(__name__)

SLOTS_ON_CPU: Final = 16
SLOTS_ON_GPU: Final = 32  # where they fit

MARGIN_BYTES: Final = 1 << 30  # the libraries' own workspaces, graphs, fragments
_FLOAT32_BYTES: Final = 4
_PREFILLS: Final = 2  # for short and for long prompts; captured, each keeps memory of its own
_SCORE_COPIES: Final = 4  # of the attention's scores at the same moment: as they are, capped, masked, as weights
_MLP_COPIES: Final = 3  # gate, up, their product
_LOGIT_COPIES: Final = 5  # as computed, capped, float32, masked, exponentials


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What an engine takes beside its weights, in bytes.

    Attributes:
        slot_bytes: keys and values of one slot.
        row_bytes: what a decode step needs for each of its rows.
        fixed_bytes: the longest prefill, image features, and a margin.
    """

    slot_bytes: int
    row_bytes: int
    fixed_bytes: int

    @classmethod
    def of(cls, text_config: Any, *, length: int, dtype: torch.dtype, feature_cache_bytes: int) -> Self:
        """For slots of `length` positions of a text model; upper bounds, since what is alive at once is."""
        layers, kv_heads, head_dim = (
            text_config.num_hidden_layers,
            text_config.num_key_value_heads,
            text_config.head_dim,
        )
        scores = text_config.num_attention_heads * length**2 * _FLOAT32_BYTES * _SCORE_COPIES
        mlp = length * text_config.intermediate_size * dtype.itemsize * _MLP_COPIES
        return cls(
            slot_bytes=2 * layers * kv_heads * length * head_dim * dtype.itemsize,
            # Each captured row bucket keeps its own: 1 + 2 + 4 + ... rows, less than twice the slots.
            row_bytes=2 * text_config.vocab_size * _FLOAT32_BYTES * _LOGIT_COPIES,
            fixed_bytes=_PREFILLS * (scores + mlp) + feature_cache_bytes + MARGIN_BYTES,
        )

    def slots_within(self, free_bytes: int) -> int:
        """How many slots fit."""
        return max(0, (free_bytes - self.fixed_bytes) // (self.slot_bytes + self.row_bytes))


def plan_slots(config: EngineConfig, checkpoint: Checkpoint) -> int:
    """The number of slots: as set, or on a GPU as many as fit, up to SLOTS_ON_GPU.

    Raises:
        ModelFailed: they do not fit the GPU; says what to set.
    """
    device = checkpoint.model.device
    if device.type != "cuda":
        return config.max_slots or SLOTS_ON_CPU
    need = MemoryNeed.of(
        checkpoint.model.config.get_text_config(),
        length=slot_length(checkpoint, config.max_new_tokens),
        dtype=checkpoint.model.lm_head.weight.dtype,
        feature_cache_bytes=config.feature_cache_bytes,
    )
    free_bytes = free_gpu_bytes(device)
    slots = choose_slots(config.max_slots, need, free_bytes=free_bytes)
    _log.info("%d slots of %.0f MB, %.1f GB free before", slots, need.slot_bytes / 1e6, free_bytes / 1e9)
    return slots


def choose_slots(wanted: int | None, need: MemoryNeed, *, free_bytes: int) -> int:
    """The number of slots for so much free memory; `wanted` is None where it is left to the plan.

    Raises:
        ModelFailed: they do not fit; says what to set.
    """
    fitting = need.slots_within(free_bytes)
    free = f"the {free_bytes / 1e9:.1f} GB that its weights leave free"
    if fitting == 0:
        raise ModelFailed(f"no slot fits {free}; {too_large()}")
    if wanted is None:
        return min(SLOTS_ON_GPU, fitting)
    if wanted > fitting:
        raise ModelFailed(f"MAX_SLOTS={wanted} does not fit {free}, {fitting} do; set it to auto, or lower")
    return wanted


def too_large() -> str:
    """What to do where a checkpoint does not fit the GPU."""
    return "set QUANTIZATION=8bit or 4bit, a lower MAX_NEW_TOKENS or MAX_EXTRA_MODELS, or choose a smaller checkpoint"
