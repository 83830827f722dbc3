"""Checkpoints for tests: a random one with a short sliding window, and how to ask transformers itself."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, GemmaConfig, PaliGemmaForConditionalGeneration

DEMO_MODEL_ID = "paligemma2-demo-224"

torch.set_num_threads(1)  # small models: a second thread costs more than it brings


def make_random_checkpoint(
    folder: Path,
    demo: Path,
    *,
    sliding_window: int = 4096,
    seed: int = 0,
    generation: int = 2,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
) -> Path:
    """A PaliGemma 1 or 2 with the demo model's tokenizer, 16 image tokens, and weights that make varied answers."""
    config = AutoConfig.from_pretrained(demo)
    if generation == 1:
        vocab_size = config.text_config.vocab_size
        config.text_config = GemmaConfig(vocab_size=vocab_size, num_attention_heads=4, num_key_value_heads=1)
    config.vision_config.image_size, config.vision_config.patch_size = 56, 14
    config.vision_config.hidden_size = config.vision_config.projection_dim = 64
    config.vision_config.intermediate_size, config.vision_config.num_hidden_layers = 96, 2
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.head_dim = 64, 96, 16
    config.hidden_size = config.projection_dim = 64
    text.num_hidden_layers, text.num_image_tokens = 4, 16
    if generation == 2:
        text.query_pre_attn_scalar, text.sliding_window = 16, sliding_window
        text.layer_types = ["sliding_attention", "full_attention"] * 2
    # Tied to the embedding, an untrained head only repeats the token before.
    config.tie_word_embeddings = text.tie_word_embeddings = False
    torch.manual_seed(seed)
    model = PaliGemmaForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(20 if "lm_head" in name else 6)  # as initialised, all tokens score nearly the same
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    processor = AutoProcessor.from_pretrained(demo)
    processor.image_processor.size = {"height": 56, "width": 56}
    processor.image_processor.image_seq_length = processor.image_seq_length = 16
    processor.save_pretrained(folder)
    if not (folder / "tokenizer.json").exists():
        shutil.copy(demo / "tokenizer.json", folder)
    return folder


@dataclass(frozen=True)
class Reference:
    """What transformers itself generates: token ids without the end token, and their log-probabilities."""

    token_ids: list[int]
    logprobs: list[float]


class Transformers:
    """The reference's way: `generate`, one request at a time."""

    def __init__(
        self, folder: Path, *, dtype: torch.dtype | str = "auto", device: str = "cpu", **arguments: Any
    ) -> None:
        model: Any = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=dtype, **arguments).eval()
        self.model: Any = model if device == "cpu" else model.to(device)
        self.processor: Any = AutoProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def generate(self, image: Image.Image, prompt: str, max_new_tokens: int) -> Reference:
        inputs = self.processor(images=image, text=f"<image>{prompt}", return_tensors="pt")
        inputs.pop("labels", None)
        inputs = inputs.to(self.model.device, self.model.dtype)
        output = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
        token_ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        logprobs = [
            logits[0].float().log_softmax(-1)[token_id].item()
            for logits, token_id in zip(output.logits, token_ids, strict=True)
        ]
        if token_ids and token_ids[-1] == self.model.generation_config.eos_token_id:
            token_ids, logprobs = token_ids[:-1], logprobs[:-1]
        return Reference(token_ids, logprobs)
