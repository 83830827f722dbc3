"""How much GPU memory a slot takes and how many slots fit, by the engine's own memory plan."""

import dataclasses
from dataclasses import dataclass
from typing import Final

import torch
from transformers import Gemma2Config

from paligemma_engine import EngineConfig
from paligemma_engine.memory.slot_plan import MOST_SLOTS, MemoryNeed
from paligemma_engine.preparation.prompt_tokens import MAX_PROMPT_TOKENS
from parts.gpu_benchmark.architecture import PALIGEMMA2_3B_448, Architecture

IMAGE_SIZES: Final = (224, 448, 896)  # pixels
GPU_GB: Final = (24, 48, 80, 141)
FEATURE_CACHE_BYTES: Final = 256_000_000  # FEATURE_CACHE_BYTES on a GPU
DTYPE: Final = torch.bfloat16

# Text models of PaliGemma 2: models/ppp/gemma.py of google-research/big_vision.
ARCHITECTURES: Final = {
    "3b": PALIGEMMA2_3B_448,
    "10b": dataclasses.replace(
        PALIGEMMA2_3B_448, hidden_size=3584, mlp_size=14336, layers=42, heads=16, kv_heads=8, head_dim=256
    ),
    "28b": dataclasses.replace(
        PALIGEMMA2_3B_448, hidden_size=4608, mlp_size=36864, layers=46, heads=32, kv_heads=16, head_dim=128
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One checkpoint.

    Attributes:
        name: its size, such as `3b`.
        image_size: pixels.
        slot_bytes: keys and values of a slot.
        slots: that fit, by gigabytes of the GPU's memory; at most MOST_SLOTS.
    """

    name: str
    image_size: int
    slot_bytes: int
    slots: dict[int, int]


def rows() -> list[Row]:
    """All checkpoints, in bfloat16, with the settings' defaults and captured steps."""
    return [_row(name, image_size) for name in ARCHITECTURES for image_size in IMAGE_SIZES]


def _row(name: str, image_size: int) -> Row:
    architecture = dataclasses.replace(ARCHITECTURES[name], image_size=image_size)
    need = MemoryNeed.of(
        _text_config(architecture),
        prompt_length=architecture.image_tokens + MAX_PROMPT_TOKENS,
        max_new_tokens=EngineConfig.from_env({}, device="cuda:0", instance="").max_new_tokens,
        dtype=DTYPE,
        feature_cache_bytes=FEATURE_CACHE_BYTES,
        captured=True,
    )
    weights = weight_count(architecture) * DTYPE.itemsize
    slots = {gb: min(MOST_SLOTS, need.slots_within(int(gb * 1e9) - weights)) for gb in GPU_GB}
    return Row(name, image_size, need.slot_bytes, slots)


def weight_count(architecture: Architecture) -> int:
    """Numbers in the matrices of a checkpoint; biases and norms, below 0.1 %, are left out."""
    each = architecture
    vision_layer = 4 * each.vision_hidden_size**2 + 2 * each.vision_hidden_size * each.vision_mlp_size
    vision = each.vision_layers * vision_layer + each.vision_hidden_size * (
        3 * each.patch_size**2 + each.image_tokens + each.hidden_size
    )
    attention = 2 * each.hidden_size * each.head_dim * (each.heads + each.kv_heads)
    text = each.layers * (attention + 3 * each.hidden_size * each.mlp_size) + each.vocab_size * each.hidden_size
    return vision + text


def _text_config(architecture: Architecture) -> Gemma2Config:
    return Gemma2Config(
        vocab_size=architecture.vocab_size,
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.mlp_size,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.kv_heads,
        head_dim=architecture.head_dim,
    )


def table() -> str:
    """The rows as a Markdown table."""
    head = f"| checkpoint | px | KV MB per slot | {' | '.join(f'slots on {gb} GB' for gb in GPU_GB)} |"
    lines = [head, "|---" * (3 + len(GPU_GB)) + "|"]
    for row in rows():
        slots = " | ".join(str(count) if count else "none" for count in row.slots.values())
        lines.append(f"| {row.name} | {row.image_size} | {row.slot_bytes / 1e6:.1f} | {slots} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
