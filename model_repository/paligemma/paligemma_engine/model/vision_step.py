"""The vision tower's step. Fixed shape, no host sync, so a CUDA graph can hold it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from paligemma_engine.model.transfers import Upload
from paligemma_engine.requests.prepared import LEVELS, PreparedImage


class VisionStep(nn.Module):
    """Runs the pictures that were loaded last; the next ones overwrite them."""

    pixel_values: torch.Tensor
    pixels: torch.Tensor
    levels: torch.Tensor

    def __init__(self, model: Any, *, most: int = 1) -> None:
        """`most`: pictures at once."""
        super().__init__()
        self.vision_tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        side = model.config.vision_config.image_size
        pixel_values = torch.zeros(most, 3, side, side, dtype=model.dtype, device=model.device)
        self.register_buffer("pixel_values", pixel_values)
        self.register_buffer("pixels", torch.zeros(side, side, 3, dtype=torch.uint8, device=model.device))
        self.register_buffer("levels", torch.zeros(3, LEVELS, device=model.device))
        self._loaded = most
        self._levels_of: NDArray[np.float32] | None = None
        self._upload_values = [Upload(values) for values in pixel_values]
        self._upload_pixels = Upload(self.pixels)

    def load(self, images: Sequence[PreparedImage]) -> None:
        """Copies the next pictures in, without waiting for a step that the GPU still runs."""
        for row, image in enumerate(images):
            self._load(row, image)
        self._loaded = len(images)

    def _load(self, row: int, image: PreparedImage) -> None:
        if image.normalized.shape == tuple(self.pixel_values.shape[1:]):
            self._upload_values[row](torch.from_numpy(image.normalized))
            return
        self._upload_pixels(torch.from_numpy(image.input_image))
        if self._levels_of is not image.normalized:  # one table serves all pictures of a checkpoint
            self._levels_of = image.normalized
            self.levels.copy_(torch.from_numpy(image.normalized))
        for channel, values in enumerate(self.pixel_values[row]):
            level = self.pixels[..., channel].reshape(-1).int()
            values.copy_(self.levels[channel].index_select(0, level).view_as(values))

    def rehearse(self, number: int) -> None:
        """Puts made-up pictures in, so that runs can be compared; each number, from 0, gives other ones."""
        brightest = 1 / (1 + number)
        self.pixel_values.copy_(torch.linspace(-1, brightest, self.pixel_values.numel()).view_as(self.pixel_values))

    def forward(self) -> torch.Tensor:
        """Returns the text model's image features [pictures, image tokens, hidden]."""
        pixel_values = self.pixel_values[: self._loaded]
        features: torch.Tensor = self.projector(self.vision_tower(pixel_values).last_hidden_state)
        return features
