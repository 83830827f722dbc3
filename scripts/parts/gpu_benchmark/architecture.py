"""Builds PaliGemma 2 with random weights on the device, and a processor with all of its tokens."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
)

from paligemma_tokens.vocabulary import LOC_BINS, SEG_CODES, loc_token, seg_token
from parts.scenes import SHAPES
from parts.training.names import COLOURS

DEMO: Final = Path(__file__).resolve().parent.parent.parent.parent / "models" / "paligemma2-demo-224"

# The ids of Gemma's tokenizer; loc tokens, seg tokens and <image> are consecutive at its end.
SPECIAL_TOKENS: Final = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
PAD_ID, EOS_ID, BOS_ID = range(3)
NEWLINE_ID: Final = 108
PADDING_ROWS: Final = 63  # after <image>, so that the number of embedding rows is a multiple of 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes of a PaliGemma 2: pictures, vision tower, text model and vocabulary."""

    name: str
    image_size: int
    patch_size: int
    vision_hidden_size: int
    vision_mlp_size: int
    vision_layers: int
    vision_heads: int
    hidden_size: int
    mlp_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def image_tokens(self) -> int:
        """Tokens that an image takes in the prompt."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def image_token_id(self) -> int:
        """The id of <image>."""
        return self.vocab_size - PADDING_ROWS - 1

    def cut_down(self, *, vision_layers: int, layers: int) -> "Architecture":
        """Returns an architecture with the same widths and fewer layers."""
        return dataclasses.replace(self, vision_layers=vision_layers, layers=layers)


# transformers' convert_paligemma2_weights_to_hf.py, and models/ppp/gemma.py of google-research/big_vision
PALIGEMMA2_3B_448: Final = Architecture(
    name="PaliGemma 2 3B at 448 px",
    image_size=448,
    patch_size=14,
    vision_hidden_size=1152,
    vision_mlp_size=4304,
    vision_layers=27,
    vision_heads=16,
    hidden_size=2304,
    mlp_size=9216,
    layers=26,
    heads=8,
    kv_heads=4,
    head_dim=256,
    vocab_size=257_216,
)
TINY: Final = Architecture(
    name="tiny",
    image_size=56,
    patch_size=14,
    vision_hidden_size=64,
    vision_mlp_size=96,
    vision_layers=2,
    vision_heads=4,
    hidden_size=64,
    mlp_size=96,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab_size=2048,
)


def make_model(architecture: Architecture, *, device: torch.device, dtype: torch.dtype, tied: bool = True) -> Any:
    """Builds PaliGemmaForConditionalGeneration with random weights, in eval mode, with transformers' attention.

    Its answers never end by themselves. `tied`: whether the head shares the embedding's weights, as in PaliGemma 2; an
    untrained model then only repeats its prompt's last token.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(_make_config(architecture, tied=tied), dtype=dtype)
    with torch.no_grad():
        model.lm_head.weight[EOS_ID] = 0.0  # <eos> scores 0, and some other token always scores more
    return model.eval()


def _make_config(architecture: Architecture, *, tied: bool) -> PaliGemmaConfig:
    vision = {
        "model_type": "siglip_vision_model",
        "image_size": architecture.image_size,
        "patch_size": architecture.patch_size,
        "hidden_size": architecture.vision_hidden_size,
        "intermediate_size": architecture.vision_mlp_size,
        "num_hidden_layers": architecture.vision_layers,
        "num_attention_heads": architecture.vision_heads,
        "vision_use_head": False,
    }
    text = {
        "model_type": "gemma2",
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.mlp_size,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_dim,
        "query_pre_attn_scalar": architecture.head_dim,
        "vocab_size": architecture.vocab_size,
        "initializer_range": architecture.hidden_size**-0.5,  # keeps the scale of activations at any width
        "tie_word_embeddings": tied,
    }
    return PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=architecture.image_token_id,
        vocab_size=architecture.vocab_size,
        projection_dim=architecture.hidden_size,
        hidden_size=architecture.hidden_size,
        tie_word_embeddings=tied,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )


def make_processor(architecture: Architecture) -> Any:
    """Builds the demo model's processor for this picture size, with a tokenizer that knows the scenes' words."""
    # If torchvision is installed, transformers would choose another image processor, which the engine cannot look up.
    image_processor: Any = AutoImageProcessor.from_pretrained(DEMO, local_files_only=True, backend="pil")
    image_processor.size = {"height": architecture.image_size, "width": architecture.image_size}
    image_processor.image_seq_length = architecture.image_tokens
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_make_tokenizer(architecture), padding_side="left", **SPECIAL_TOKENS
    )
    return PaliGemmaProcessor(image_processor=image_processor, tokenizer=tokenizer)


def _make_tokenizer(architecture: Architecture) -> Tokenizer:
    """Builds a tokenizer with a text for each row of the embedding, so that different ids have different texts."""
    tokenizer = Tokenizer(models.WordLevel(_make_vocabulary(architecture), unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁\n]+|\n"), "isolated")
    tokenizer.decoder = decoders.Replace("▁", " ")
    return tokenizer


def _make_vocabulary(architecture: Architecture) -> dict[str, int]:
    pieces = [f"<unused{token_id}>" for token_id in range(architecture.vocab_size)]
    words = ["segment", *(f"▁{word}" for word in [*COLOURS, *SHAPES])]
    seg = architecture.image_token_id - SEG_CODES
    loc = seg - LOC_BINS
    pieces[: len(SPECIAL_TOKENS)] = SPECIAL_TOKENS.values()
    pieces[NEWLINE_ID : NEWLINE_ID + 1 + len(words)] = ["\n", *words]
    pieces[loc : architecture.image_token_id + 1] = [
        *map(loc_token, range(LOC_BINS)),
        *map(seg_token, range(SEG_CODES)),
        "<image>",
    ]
    return {piece: token_id for token_id, piece in enumerate(pieces)}
