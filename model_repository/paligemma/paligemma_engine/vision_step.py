"""A picture through the vision tower: fixed shape, no host sync, so that a CUDA graph can hold it."""

from typing import Any

import torch
from torch import nn

from paligemma_engine.prepared import PreparedImage
from paligemma_engine.upload import Upload


class VisionStep(nn.Module):
    """The picture in `pixel_values`, float[1, 3, height, width], which the next one overwrites."""

    pixel_values: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        weights, side = model.lm_head.weight, model.config.vision_config.image_size
        pixel_values = torch.zeros(1, 3, side, side, dtype=weights.dtype, device=weights.device)
        self.register_buffer("pixel_values", pixel_values)
        self._upload = Upload(pixel_values[0])

    def show(self, image: PreparedImage) -> None:
        """Puts the next picture in; the device may still be looking at the one before."""
        self._upload(torch.from_numpy(image.pixel_values))

    def rehearse(self, number: int) -> None:
        """Puts a made-up picture in, so that runs can be compared; each number, from 0, stands for another one."""
        brightest = 1 / (1 + number)
        self.pixel_values.copy_(torch.linspace(-1, brightest, self.pixel_values.numel()).view_as(self.pixel_values))

    def forward(self) -> torch.Tensor:
        """The features [1, image tokens, hidden] that the text model reads."""
        features: torch.Tensor = self.projector(self.vision_tower(self.pixel_values).last_hidden_state)
        return features
