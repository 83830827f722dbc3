"""The work that every contender gets: the same pictures and prompts, and the checkpoints to do it with."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scenes import draw_scene

RANDOM_MODEL_ID: Final = "random-36m"
IMAGE_SIZE: Final = (640, 480)


@dataclass(frozen=True, slots=True)
class Job:
    """One request: an encoded image and a prompt."""

    image: bytes
    prompt: str


def make_jobs(count: int) -> list[Job]:
    """JPEG scenes with one prompt each, for an object that is there."""
    jobs = []
    for seed in range(count):
        scene = draw_scene(seed, size=IMAGE_SIZE)
        named = scene.objects[seed % len(scene.objects)]
        jobs.append(Job(scene.jpeg(), f"segment {named.colour} {named.shape}"))
    return jobs


def make_random_checkpoint(folder: Path, demo: Path) -> None:
    """A PaliGemma 2 of about 36M parameters with random weights, and the demo model's tokenizer and processor.

    Speed does not depend on what the weights are.
    """
    import torch  # noqa: PLC0415  # not before the checkpoint is wanted: the benchmark's clients need none of it
    from transformers import AutoConfig, AutoProcessor, PaliGemmaForConditionalGeneration  # noqa: PLC0415

    config = AutoConfig.from_pretrained(demo)
    vision, text = config.vision_config, config.text_config
    vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers, vision.num_attention_heads = 384, 1536, 8, 6
    vision.projection_dim = config.projection_dim = config.hidden_size = text.hidden_size = 512
    text.intermediate_size, text.num_hidden_layers, text.head_dim, text.query_pre_attn_scalar = 1664, 6, 64, 64
    text.num_attention_heads, text.num_key_value_heads = 8, 4
    text.layer_types = ["sliding_attention", "full_attention"] * 3
    config.tie_word_embeddings = text.tie_word_embeddings = False
    torch.manual_seed(0)
    PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(demo).save_pretrained(folder)
    shutil.copy(demo / "tokenizer.json", folder)
