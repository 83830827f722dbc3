"""Writes a trained model as a standard PaliGemma checkpoint."""

from pathlib import Path
from typing import Any, Final

import torch
from transformers import GenerationConfig

from parts.training.network import Architecture
from parts.training.vocabulary import make_processor

_READABLE: Final = 0o644  # safetensors makes files readable for their owner only


def export(model: Any, tokenizer: Any, architecture: Architecture, folder: Path) -> None:
    """Writes weights in float32, configuration, tokenizer and processor into a folder."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.to("cpu", torch.float32).save_pretrained(folder)
    processor = make_processor(tokenizer, image_size=architecture.image_size, image_tokens=architecture.grid**2)
    processor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(_READABLE)
