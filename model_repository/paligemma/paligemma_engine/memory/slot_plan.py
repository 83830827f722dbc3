"""The number of slots that the free memory allows; decided after the weights are loaded, before the first request.

free memory  =  slots x keys and values  +  runs x max(prefill, slots x row of a decode step)  +  features  +  margin

Prefills and decode steps never run at the same time, and their graphs share memory (cuda_graph.py), the largest
captured first. So the largest step counts, not the sum. Captured steps count twice: the same step also runs without its
graph, before the capture and to check the graph.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final, Self

import torch

from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import ModelFailed
from paligemma_engine.memory.release import free_gpu_bytes, free_host_bytes
from paligemma_engine.preparation.prompt_tokens import slot_length

_log = logging.getLogger(__name__)

MOST_SLOTS: Final = 32  # where they fit
# The most on a CPU where MOST_SLOTS take more than the next. More gain little there: most of the time goes to prefills.
LARGE_SLOTS_ON_CPU: Final = 12
SMALL_SLOTS_BYTES: Final = 500_000_000

MARGIN_BYTES: Final = 1 << 30  # workspaces of libraries, graphs, fragmentation
_FLOAT32_BYTES: Final = 4
_RUNS_IF_CAPTURED: Final = 2  # in the graphs' memory, and outside of it
_SCORE_COPIES: Final = 4  # of the attention scores alive at once: raw, capped, masked, softmax weights
_MLP_COPIES: Final = 3  # gate, up, their product
_LOGIT_COPIES: Final = 5  # as computed, capped, float32, masked, exponentials


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """The memory of an engine beside its weights, in bytes.

    Attributes:
        slot_bytes: keys and values of one slot.
        prefill_bytes: temporary memory of the longest prefill. The vision tower needs less: its scores are not stored,
            and its layers are narrower than the text model's.
        row_bytes: temporary memory of a decode step for each row.
        runs: how often the largest step counts.
        fixed_bytes: image features, and a margin.
    """

    slot_bytes: int
    prefill_bytes: int
    row_bytes: int
    runs: int
    fixed_bytes: int

    @classmethod
    def of(
        cls,
        text_config: Any,
        *,
        prompt_length: int,
        max_new_tokens: int,
        dtype: torch.dtype,
        feature_cache_bytes: int,
        captured: bool,
    ) -> Self:
        """For slots of `prompt_length + max_new_tokens` positions of a text model; upper bounds of what lives at once.

        Args:
            text_config: its configuration.
            prompt_length: the longest prompt, the image's tokens included.
            max_new_tokens: the longest answer.
            dtype: what is computed in, and kept.
            feature_cache_bytes: as in the settings.
            captured: whether steps are captured in graphs.
        """
        position_bytes = 2 * text_config.num_key_value_heads * text_config.head_dim * dtype.itemsize
        scores = text_config.num_attention_heads * prompt_length**2 * _FLOAT32_BYTES * _SCORE_COPIES
        mlp = prompt_length * text_config.intermediate_size * dtype.itemsize * _MLP_COPIES
        return cls(
            slot_bytes=text_config.num_hidden_layers * position_bytes * (prompt_length + max_new_tokens),
            prefill_bytes=scores + mlp,
            row_bytes=text_config.vocab_size * _FLOAT32_BYTES * _LOGIT_COPIES,
            runs=_RUNS_IF_CAPTURED if captured else 1,
            fixed_bytes=feature_cache_bytes + MARGIN_BYTES,
        )

    def for_slots(self, slots: int) -> int:
        """Returns the memory of this number of slots."""
        running = max(self.prefill_bytes, slots * self.row_bytes)
        return slots * self.slot_bytes + self.runs * running + self.fixed_bytes

    def slots_within(self, free_bytes: int) -> int:
        """Returns the number of slots that fit."""
        rest = free_bytes - self.fixed_bytes
        beside_a_prefill = (rest - self.runs * self.prefill_bytes) // self.slot_bytes
        with_their_rows = rest // (self.slot_bytes + self.runs * self.row_bytes)
        return max(0, min(beside_a_prefill, with_their_rows))


def plan_slots(config: EngineConfig, checkpoint: Checkpoint) -> int:
    """Returns the number of slots: the setting, or as many as fit, up to MOST_SLOTS; fewer large ones on a CPU.

    Raises:
        ModelFailed: they do not fit the GPU; says what to set.
    """
    device = checkpoint.model.device
    need = MemoryNeed.of(
        checkpoint.model.config.get_text_config(),
        prompt_length=slot_length(checkpoint, max_new_tokens=0),
        max_new_tokens=config.max_new_tokens,
        dtype=checkpoint.model.dtype,
        feature_cache_bytes=config.feature_cache_bytes,
        captured=config.cuda_graphs != "off" and not checkpoint.is_quantized,
    )
    if device.type != "cuda":
        return config.max_slots or slots_on_cpu(need, free_bytes=free_host_bytes())
    free_bytes = free_gpu_bytes(device)
    slots = choose_slots(config.max_slots, need, free_bytes=free_bytes)
    _log.info("%d slots of %.0f MB, %.1f GB free before", slots, need.slot_bytes / 1e6, free_bytes / 1e9)
    return slots


def slots_on_cpu(need: MemoryNeed, *, free_bytes: int) -> int:
    """Returns the number of slots for this free memory, at least 1: an estimate, since the host can swap."""
    are_small = MOST_SLOTS * need.slot_bytes <= SMALL_SLOTS_BYTES
    most = MOST_SLOTS if are_small else LARGE_SLOTS_ON_CPU
    return max(1, min(most, free_bytes // need.slot_bytes))


def choose_slots(wanted: int | None, need: MemoryNeed, *, free_bytes: int) -> int:
    """Returns the number of slots for this free memory; `wanted` is the setting, None for automatic.

    Raises:
        ModelFailed: they do not fit; says what to set.
    """
    fitting = need.slots_within(free_bytes)
    free = f"the {free_bytes / 1e9:.1f} GB that its weights leave free"
    if fitting == 0:
        raise ModelFailed(f"no slot fits {free}; {too_large()}")
    if wanted is None:
        return min(MOST_SLOTS, fitting)
    if wanted > fitting:
        raise ModelFailed(f"MAX_SLOTS={wanted} does not fit {free}, {fitting} do; set it to auto, or lower")
    return wanted


def too_large() -> str:
    """Returns the advice for a checkpoint that does not fit the GPU."""
    return "set QUANTIZATION=8bit or 4bit, a lower MAX_NEW_TOKENS or MAX_EXTRA_MODELS, or choose a smaller checkpoint"
