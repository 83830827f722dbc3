"""The mask VQ-VAE in PyTorch, for training; the server runs it in Flax (`mask_vae`). Names are the npz file's."""

from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mask_vae import layout
from mask_vae.checkpoint import load_arrays


class _Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(conv3x3(x)))))."""

    def __init__(self) -> None:
        super().__init__()
        width = layout.HIDDEN_SIZE
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """float[N, 128, h, w] -> the same shape."""
        outputs: torch.Tensor = inputs + self.net(inputs)
        return outputs


class _Codebook(nn.Module):
    """The codes' vectors, and the running statistics from which they are computed."""

    def __init__(self) -> None:
        super().__init__()
        size = (layout.CODEBOOK_SIZE, layout.EMBEDDING_SIZE)
        self.register_buffer("_embedding", torch.zeros(size))
        self.register_buffer("_ema_cluster_size", torch.zeros(layout.CODEBOOK_SIZE))
        self.register_buffer("_ema_w", torch.zeros(size))


class TorchMaskVae(nn.Module):
    """Encodes masks of 64x64 as 16 codes, and decodes them."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, *layout.ENCODER_WIDTHS)
        down = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU())
        ]
        widths = (layout.HIDDEN_SIZE, *layout.DECODER_WIDTHS)
        up = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU())
        ]
        self.encoder = nn.Sequential(
            *down, _Residual(), _Residual(), nn.Conv2d(layout.HIDDEN_SIZE, layout.EMBEDDING_SIZE, 1)
        )
        self._vq_vae = _Codebook()
        self.decoder = nn.Sequential(
            nn.Conv2d(layout.EMBEDDING_SIZE, layout.HIDDEN_SIZE, 1),
            nn.ReLU(),
            _Residual(),
            _Residual(),
            *up,
            nn.Conv2d(layout.DECODER_WIDTHS[-1], 1, 1),
        )

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads an npz file; raises CheckpointError if it cannot be used."""
        vae = cls()
        vae.load_state_dict({name: torch.from_numpy(array) for name, array in load_arrays(file).items()})
        return vae

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The 49 arrays of the npz file."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}

    @property
    def codebook(self) -> torch.Tensor:
        """float32[128, 512]."""
        embedding = self._vq_vae._embedding
        assert isinstance(embedding, torch.Tensor)
        return embedding

    @torch.no_grad()
    def encode(self, masks: torch.Tensor) -> torch.Tensor:
        """float[N, 64, 64] in [0, 1] -> int64[N, 16], each the nearest entry of the codebook."""
        vectors = self.encoder(2 * (masks[:, None] - 0.5)).permute(0, 2, 3, 1).reshape(-1, layout.EMBEDDING_SIZE)
        distances = -2 * vectors @ self.codebook.T + (self.codebook**2).sum(1)
        codes: torch.Tensor = distances.argmin(1).reshape(-1, layout.CODES_PER_MASK)
        return codes

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """int64[N, 16] -> float[N, 64, 64], about [-1, 1]; foreground is > 0."""
        grid = (-1, layout.GRID_SIZE, layout.GRID_SIZE, layout.EMBEDDING_SIZE)
        masks: torch.Tensor = self.decoder(self.codebook[codes].reshape(grid).permute(0, 3, 1, 2))[:, 0]
        return masks
