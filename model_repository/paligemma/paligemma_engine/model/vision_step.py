"""The vision tower's step. Fixed shape, no host sync, so a CUDA graph can hold it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from paligemma_engine.model.transfers import Upload
from paligemma_engine.requests.prepared import LEVELS, PreparedImage


class VisionStep(nn.Module):
    """Runs the picture in `pixel_values`, float[1, 3, height, width]; the next picture overwrites it."""

    pixel_values: torch.Tensor
    pixels: torch.Tensor
    levels: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        side = model.config.vision_config.image_size
        pixel_values = torch.zeros(1, 3, side, side, dtype=model.dtype, device=model.device)
        self.register_buffer("pixel_values", pixel_values)
        self.register_buffer("pixels", torch.zeros(side, side, 3, dtype=torch.uint8, device=model.device))
        self.register_buffer("levels", torch.zeros(3, LEVELS, device=model.device))
        self._levels_of: NDArray[np.float32] | None = None
        self._upload_values, self._upload_pixels = Upload(pixel_values[0]), Upload(self.pixels)

    def load(self, image: PreparedImage) -> None:
        """Copies the next picture into `pixel_values`, without waiting for a step that the GPU still runs."""
        if image.normalized.shape == tuple(self.pixel_values.shape[1:]):
            self._upload_values(torch.from_numpy(image.normalized))
            return
        self._upload_pixels(torch.from_numpy(image.input_image))
        if self._levels_of is not image.normalized:  # one table serves all pictures of a checkpoint
            self._levels_of = image.normalized
            self.levels.copy_(torch.from_numpy(image.normalized))
        for channel, values in enumerate(self.pixel_values[0]):
            level = self.pixels[..., channel].reshape(-1).int()
            values.copy_(self.levels[channel].index_select(0, level).view_as(values))

    def rehearse(self, number: int) -> None:
        """Puts a made-up picture in, so that runs can be compared; each number, from 0, gives another picture."""
        brightest = 1 / (1 + number)
        self.pixel_values.copy_(torch.linspace(-1, brightest, self.pixel_values.numel()).view_as(self.pixel_values))

    def forward(self) -> torch.Tensor:
        """Returns the text model's image features [1, image tokens, hidden]."""
        features: torch.Tensor = self.projector(self.vision_tower(self.pixel_values).last_hidden_state)
        return features
