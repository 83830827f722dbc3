"""Measures the GPU's ceilings, and derives the least time that the model's work takes at these rates."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from parts.gpu_benchmark.device_clock import DeviceClock

REPEATS: Final = 20
_MULTIPLY_AND_ADD: Final = 2


def measure_matrix_flops_per_s(clock: DeviceClock, *, device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Measures the rate of a product of two random matrices [size, size]: 2 size^3 operations."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)

    def multiply() -> None:
        torch.matmul(left, right, out=product)

    clock.time(multiply, repeats=3)
    return _MULTIPLY_AND_ADD * size**3 / clock.time(multiply, repeats=REPEATS)


def measure_copy_bytes_per_s(clock: DeviceClock, *, device: torch.device, size_bytes: int) -> float:
    """Measures the rate of a copy within the device's memory; bytes read and bytes written both count."""
    source = torch.ones(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock.time(lambda: target.copy_(source), repeats=3)
    return 2 * size_bytes / clock.time(lambda: target.copy_(source), repeats=REPEATS)


@dataclass(frozen=True, slots=True)
class ModelCost:
    """The least operations and bytes that a model's work takes.

    Attributes:
        vision_weights: weights before the text model; each image token is multiplied with all of them.
        text_weights: weights of the text model; each token of the prompt is multiplied with all of them, but for the
            next ones.
        last_weights: weights of its last layer but those of keys and values; only the last token needs them.
        head_weights: weights of the head, which gives the next token's logits.
        vision_attention: operations for each pair of the image's tokens, over all layers.
        text_attention: operations for each pair of the prompt's tokens, over all layers but the last.
        position_bytes: bytes of the keys and values of one position, over all layers.
        weight_bytes: bytes per weight.
        image_tokens: tokens per image.
    """

    vision_weights: int
    text_weights: int
    last_weights: int
    head_weights: int
    vision_attention: int
    text_attention: int
    position_bytes: int
    weight_bytes: int
    image_tokens: int

    @classmethod
    def of(cls, model: Any) -> "ModelCost":
        """Counts the weights of a transformers model."""
        vision, text = model.config.vision_config, model.config.get_text_config()
        last = model.model.language_model.layers[-1]
        heads_size = text.num_attention_heads * text.head_dim
        weight_bytes: int = model.lm_head.weight.element_size()
        return cls(
            vision_weights=_multiplied(model.model.vision_tower) + _multiplied(model.model.multi_modal_projector),
            text_weights=_multiplied(model.model.language_model),
            last_weights=_multiplied(last) - _multiplied(last.self_attn.k_proj) - _multiplied(last.self_attn.v_proj),
            head_weights=model.lm_head.weight.numel(),
            vision_attention=2 * _MULTIPLY_AND_ADD * vision.num_hidden_layers * vision.hidden_size,
            text_attention=2 * _MULTIPLY_AND_ADD * (text.num_hidden_layers - 1) * heads_size,
            position_bytes=2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * weight_bytes,
            weight_bytes=weight_bytes,
            image_tokens=(vision.image_size // vision.patch_size) ** 2,
        )

    def prefill_flops(self, prompt_tokens: int, *, picture_seen: bool = False) -> int:
        """Operations of one prefill; those of the text model alone if `picture_seen`, since its features are cached.

        2 x (vision weights x image tokens + text weights x prompt tokens + head weights), less the last layer's for all
        tokens but the last. The attention of each layer but the last, in which all tokens attend to each other, adds
        4 x tokens^2 x heads x head size for scores and value sums.
        """
        needed = self.text_weights * prompt_tokens - self.last_weights * (prompt_tokens - 1)
        text = _MULTIPLY_AND_ADD * (needed + self.head_weights)
        text += self.text_attention * prompt_tokens**2
        if picture_seen:
            return text
        vision = _MULTIPLY_AND_ADD * self.vision_weights * self.image_tokens
        return text + vision + self.vision_attention * self.image_tokens**2

    def step_bytes(self, rows: int, positions: int) -> int:
        """Bytes that a decode step reads: the text model's weights and the head's once, and each row's keys and values.

        Embeddings, activations and written bytes are left out: together they are far below one percent.
        """
        return (self.text_weights + self.head_weights) * self.weight_bytes + rows * positions * self.position_bytes


def _multiplied(module: nn.Module) -> int:
    """Number of weights in a module's matrix products; each is used once per token."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d))
