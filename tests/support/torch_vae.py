"""The mask VQ-VAE in PyTorch, written from the layout alone: an independent witness for the Flax one.

Its state dict has the names and shapes of the npz file, so that one set of arrays fits both.
"""

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(128, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 1),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.net(inputs)


class Quantizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("_embedding", (128, 512)), ("_ema_cluster_size", (128,)), ("_ema_w", (128, 512))):
            self.register_buffer(name, torch.zeros(shape))


class TorchVae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        down = [
            layer
            for before, after in ((1, 16), (16, 32), (32, 64), (64, 128))
            for layer in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU())
        ]
        up = [
            layer
            for before, after in ((128, 128), (128, 64), (64, 32), (32, 16))
            for layer in (nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU())
        ]
        self.encoder = nn.Sequential(*down, Residual(), Residual(), nn.Conv2d(128, 512, 1))
        self._vq_vae = Quantizer()
        self.decoder = nn.Sequential(
            nn.Conv2d(512, 128, 1), nn.ReLU(), Residual(), Residual(), *up, nn.Conv2d(16, 1, 1)
        )

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        vectors = self._vq_vae._embedding[codes].reshape(-1, 4, 4, 512).permute(0, 3, 1, 2)
        return self.decoder(vectors)[:, 0]

    def encode(self, masks: torch.Tensor) -> torch.Tensor:
        vectors = self.encoder(2 * (masks[:, None] - 0.5)).permute(0, 2, 3, 1).reshape(-1, 512)
        return torch.cdist(vectors.double(), self._vq_vae._embedding.double()).argmin(1).reshape(-1, 16)
