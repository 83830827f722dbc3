"""The PaliGemma that is trained, and auxiliary heads that are dropped afterwards."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

from mask_vae import layout
from parts.training.names import COLOURS, KINDS
from parts.training.vocabulary import LOC_TOKENS, SEG_TOKENS

SELECTION_LAYERS: Final = 2  # text layers before the selection head
CORNERS: Final = 4
_LOC_WAVES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Sizes of the model."""

    image_size: int = 224
    patch: int = 28
    width: int = 192
    heads: int = 4
    kv_heads: int = 2
    vision_layers: int = 4
    vision_mlp: int = 576
    text_layers: int = 5
    text_mlp: int = 384

    @property
    def grid(self) -> int:
        """Image tokens in a row."""
        return self.image_size // self.patch


ARCHITECTURES: Final = {
    "small": Architecture(),
    "large": Architecture(
        patch=16, width=384, heads=8, kv_heads=4, vision_layers=8, vision_mlp=1152, text_layers=8, text_mlp=1024
    ),
}


def make_model(architecture: Architecture, tokenizer: Any) -> Any:
    """A PaliGemma 2 with random weights; neighbouring `<loc>` tokens start with similar embeddings."""
    vocabulary_size = math.ceil(len(tokenizer) / 8) * 8
    head_size = architecture.width // architecture.heads
    text = Gemma2Config(
        vocab_size=vocabulary_size,
        hidden_size=architecture.width,
        intermediate_size=architecture.text_mlp,
        num_hidden_layers=architecture.text_layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.kv_heads,
        head_dim=head_size,
        query_pre_attn_scalar=head_size,
        sliding_window=1024,
        max_position_embeddings=1024,
        use_bidirectional_attention=True,
        num_image_tokens=architecture.grid**2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = SiglipVisionConfig(
        hidden_size=architecture.width,
        intermediate_size=architecture.vision_mlp,
        num_hidden_layers=architecture.vision_layers,
        num_attention_heads=architecture.heads,
        image_size=architecture.image_size,
        patch_size=architecture.patch,
        projection_dim=architecture.width,
        vision_use_head=False,
    )
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=vocabulary_size,
        projection_dim=architecture.width,
        hidden_size=architecture.width,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = PaliGemmaForConditionalGeneration(config)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        first = tokenizer.convert_tokens_to_ids(LOC_TOKENS[0])
        embedding[first : first + len(LOC_TOKENS)] = _waves(len(LOC_TOKENS), architecture.width) * embedding.std()
    return model


def copy_matching_weights(model: Any, tokenizer: Any, folder: Path, old_tokenizer: Any) -> None:
    """Copies another checkpoint's weights: all tensors of the same shape, and the rows of words that both know."""
    old = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).state_dict()
    new = model.state_dict()
    for name, tensor in new.items():
        if name in old and old[name].shape == tensor.shape:
            tensor.copy_(old[name])
    rows = model.get_input_embeddings().weight.data
    old_rows = old["model.language_model.embed_tokens.weight"]
    known = old_tokenizer.get_vocab()
    for token, index in tokenizer.get_vocab().items():
        if token in known:
            rows[index] = old_rows[known[token]]


class ObjectHead(nn.Module):
    """Predicts box and mask codes from the mean of an object's patches, by similarity to the tokens' embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.corners = nn.Linear(width, CORNERS * width)
        self.codes = nn.Linear(width, layout.CODES_PER_MASK * width)

    def forward(
        self, pooled: torch.Tensor, loc_rows: torch.Tensor, seg_rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float[N, width] -> logits [N, 4, 1024] and [N, 16, 128]."""
        normed = self.norm(pooled)
        corners = self.corners(normed).view(len(pooled), CORNERS, -1)
        codes = self.codes(normed).view(len(pooled), layout.CODES_PER_MASK, -1)
        return corners @ loc_rows.T, codes @ seg_rows.T


class TrainedNetwork(nn.Module):
    """The model with its auxiliary heads."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        width = model.config.hidden_size
        self.kind_head = nn.Linear(width, len(KINDS) + 1)  # the last output is the background
        self.colour_head = nn.Linear(width, len(COLOURS) + 1)  # the last output is no colour
        self.vision_objects = ObjectHead(width)
        self.selection_norm = nn.LayerNorm(width)
        self.selection_head = nn.Linear(width, 1)
        self.selected_object = ObjectHead(width)
        self._first_loc = tokenizer.convert_tokens_to_ids(LOC_TOKENS[0])
        self._first_seg = tokenizer.convert_tokens_to_ids(SEG_TOKENS[0])

    @property
    def token_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The embeddings of the loc tokens [1024, width] and of the seg tokens [128, width]."""
        rows = self.model.get_input_embeddings().weight
        return (
            rows[self._first_loc : self._first_loc + len(LOC_TOKENS)],
            rows[self._first_seg : self._first_seg + len(SEG_TOKENS)],
        )

    def compile_layers(self) -> None:
        """Compiles the layers: the first steps take a minute longer, each later step a fifth less time."""
        model = self.model.model
        for layer in (*model.vision_tower.encoder.layers, *model.language_model.layers):
            layer.compile(dynamic=True)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8[B, 3, H, W] -> the vision tower's output float[B, patches, width]."""
        features: torch.Tensor = self.model.model.vision_tower(pixels.float() / 127.5 - 1).last_hidden_state
        return features

    def read(
        self, features: torch.Tensor, token_ids: torch.Tensor, prefix_lengths: torch.Tensor, *, layers: int
    ) -> list[torch.Tensor]:
        """Runs the text model's first layers over image, prompt and answer.

        Args:
            features: float[S, patches, width], from `encode_images`.
            token_ids: int64[S, L], `<bos>`, prompt, newline, answer; padded on the right.
            prefix_lengths: int64[S], number of tokens before the answer; these attend to each other.
            layers: number of layers to run.

        Returns:
            The hidden states after each layer, float[S, patches + L, width], without the final norm.
        """
        text = self.model.model.language_model
        hidden = torch.cat([self.model.model.multi_modal_projector(features), text.embed_tokens(token_ids)], dim=1)
        length, patches = hidden.shape[1], features.shape[1]
        positions = torch.arange(length, device=hidden.device)
        seen = (positions[None, None] < (prefix_lengths + patches)[:, None, None]) | (positions <= positions[:, None])
        mask = torch.zeros(seen.shape, device=hidden.device, dtype=torch.float32).masked_fill(~seen, -1e9)[:, None]
        position_ids = (positions + 1)[None]  # as PaliGemma counts
        rotary = text.rotary_emb(hidden, position_ids)
        outputs = []
        for layer in text.layers[:layers]:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, position_ids=position_ids)
            outputs.append(hidden)
        return outputs

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last layer's output float[..., width] -> logits of the tokens, with Gemma 2's softcap."""
        logits = self.model.lm_head(self.model.model.language_model.norm(hidden)).float()
        cap = self.model.config.text_config.final_logit_softcapping
        capped: torch.Tensor = torch.tanh(logits / cap) * cap
        return capped


def _waves(count: int, width: int) -> torch.Tensor:
    """float[count, width] of variance about 1: sines of the position, so that neighbours are similar."""
    generator = torch.Generator().manual_seed(0)
    position = torch.linspace(0, 1, count)[:, None]
    frequencies = torch.exp(torch.linspace(0, math.log(_LOC_WAVES), width // 2))[None]
    angles = 2 * math.pi * position * frequencies / 2
    waves = torch.cat([angles.sin(), angles.cos()], dim=1) * math.sqrt(2)
    return waves[:, torch.randperm(waves.shape[1], generator=generator)]
