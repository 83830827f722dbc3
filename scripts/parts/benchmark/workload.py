"""The work that every contender gets: the same pictures, prompts and checkpoints."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parts.scenes import draw_scene
from parts.training.names import COLOURS

RANDOM_MODEL_ID: Final = "random-36m"
IMAGE_SIZE: Final = (640, 480)
WORKS: Final = ("equal", "mixed")
MAX_NEW_TOKENS: Final = 100  # more than any answer of the demo model needs
# Random weights would not end their answers: they are stopped where the demo model usually ends.
ABSENT_TOKENS: Final = 1
DETECT_TOKENS: Final = 7
SEGMENT_TOKENS: Final = 24


@dataclass(frozen=True, slots=True)
class Job:
    """One request: an encoded image, a prompt, and the most tokens for each of its targets."""

    image: bytes
    prompt: str
    max_new_tokens: int = MAX_NEW_TOKENS

    @property
    def max_new_tokens_in_all(self) -> int:
        """The most tokens for one answer to all targets."""
        return tokens_in_all(self.prompt, self.max_new_tokens)


def tokens_in_all(prompt: str, max_new_tokens: int) -> int:
    """The most tokens for one answer to all targets of a prompt, with `max_new_tokens` for each."""
    return max_new_tokens * (prompt.count(";") + 1)


def make_jobs(
    count: int, work: str = "equal", *, is_random: bool = False, max_new_tokens: int | None = None
) -> list[Job]:
    """Makes JPEG scenes, each with a prompt.

    Args:
        count: number of jobs.
        work: `equal`: each asks for one object that is in the picture, so all answers have about the same length, which
            is the best case for a static batch. `mixed`: by turns an absent object, a box only, one and two objects.
        is_random: whether the checkpoint has random weights.
        max_new_tokens: most tokens of every answer; None: as the work and the checkpoint want it.
    """
    make = _mixed_job if work == "mixed" else _equal_job
    jobs = [make(seed) for seed in range(count)]
    if max_new_tokens is None and is_random:
        return jobs
    return [dataclasses.replace(job, max_new_tokens=max_new_tokens or MAX_NEW_TOKENS) for job in jobs]


def _equal_job(seed: int) -> Job:
    scene = draw_scene(seed, size=IMAGE_SIZE)
    named = scene.objects[seed % len(scene.objects)]
    return Job(scene.jpeg(), f"segment {named.name}", SEGMENT_TOKENS)


def _mixed_job(seed: int) -> Job:
    scene = draw_scene(seed, size=IMAGE_SIZE, object_count=2)
    first, second = scene.objects
    absent_colour = next(colour for colour in COLOURS if colour not in (first.colour, second.colour))
    prompt, max_new_tokens = (
        (f"segment {absent_colour} {first.shape}", ABSENT_TOKENS),
        (f"detect {first.name}", DETECT_TOKENS),
        (f"segment {second.name}", SEGMENT_TOKENS),
        (f"segment {first.name} ; {second.name}", SEGMENT_TOKENS),
    )[seed % 4]
    return Job(scene.jpeg(), prompt, max_new_tokens)


def make_random_checkpoint(folder: Path, demo: Path) -> None:
    """Writes a PaliGemma 2 of about 36M random parameters, with the demo model's tokenizer and processor.

    Speed does not depend on the values of the weights.
    """
    import torch  # noqa: PLC0415  # imported only here, because the benchmark's clients do not need it
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
