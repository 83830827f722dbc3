"""Trains the mask VQ-VAE: first without codes, then with codes, last the decoder alone on fixed codes."""

from pathlib import Path
from typing import Final

import torch
from torch import nn

from mask_vae import layout
from parts.training.masks import sample_masks
from parts.training.progress import Run
from parts.training.scenes import HALF_COVERED
from parts.training.vae import TorchMaskVae

_BATCH: Final = 64
_HELD_OUT_SEED: Final = 1 << 40
_HELD_OUT: Final = 768
_PLAIN_UNTIL: Final = 0.2  # shares of the run
_CODES_UNTIL: Final = 0.55
_RATE: Final = 1e-3
_TUNING_RATE: Final = 7e-4
_COMMITMENT: Final = 0.25
_EMA: Final = 0.995
_DEAD_BELOW: Final = 0.1  # of an even share: codes that are used less are moved to another vector
_REVIVED: Final = 0.5  # of an even share: the count with which moved codes start
_STEEPNESS: Final = 6.0
_LOG_STEPS: Final = 100
_KMEANS_MASKS: Final = 4096
_KMEANS_ROUNDS: Final = 20


class VaeTraining:
    """One run; `train` starts it, or resumes it from its saved state."""

    def __init__(self, run: Run, *, seed: int, start: Path | None, device: str = "cpu") -> None:
        """Args:
        run: the run's folder and clock.
        seed: random seed of the masks.
        start: an npz file to start from, with its codes; the phase without codes is then skipped.
        device: `cpu` or `cuda`.
        """
        self._run = run
        self._seed = seed
        self._tuned = start is not None
        torch.manual_seed(seed)
        self._device = device
        self.vae = (TorchMaskVae.load(start) if start else TorchMaskVae()).to(device)
        self._optimizer = torch.optim.AdamW(self.vae.parameters(), lr=_RATE, weight_decay=1e-4)
        self._has_codes = self._tuned
        self._codes_stay = False  # whoever was trained on them needs them as they are, however long the run goes on
        self._start_statistics()
        self._generator = torch.Generator(device).manual_seed(seed)
        if state := run.load(device):
            self.vae.load_state_dict(state["vae"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._has_codes, self._codes_stay = state["has_codes"], state["codes_stay"]
        self._held_out = torch.from_numpy(sample_masks(_HELD_OUT_SEED, _HELD_OUT)).to(device)

    def train(self) -> None:
        """Trains to the end of the run's time, and saves at intervals."""
        if not self._tuned:
            for step in self._run.steps("plain autoencoder", _PLAIN_UNTIL):
                self._step(step, "plain")
        if not self._has_codes and self._run.share >= _PLAIN_UNTIL:
            self._place_codes()
        if not self._codes_stay:
            for step in self._run.steps("with codes", _CODES_UNTIL):
                self._step(step, "codes")
            if self._run.share >= _CODES_UNTIL:
                self._place_codes(self.vae.codebook)  # running means lag behind and leave some codes unused
                self._codes_stay = True
        for step in self._run.steps("decoder alone"):  # none after a signal
            self._step(step, "decoder")
        self.save()

    def save(self) -> None:
        """Saves the state."""
        self._run.save(
            {
                "vae": self.vae.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "has_codes": self._has_codes,
                "codes_stay": self._codes_stay,
            }
        )

    @torch.no_grad()
    def held_out_iou(self) -> torch.Tensor:
        """float[N]: IoU after encoding and decoding, for masks that are not used in training."""
        decoded = self.vae.decode(self.vae.encode(self._held_out)) > 0
        true = self._held_out > HALF_COVERED
        return (decoded & true).sum((1, 2)) / (decoded | true).sum((1, 2))

    def _step(self, step: int, phase: str) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(phase)
        masks = torch.from_numpy(sample_masks(self._seed + step, _BATCH)).to(self._device)
        loss = self._loss(masks, phase)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self._optimizer.step()
        if step % _LOG_STEPS == 0:
            iou = self.held_out_iou()
            used = self.vae.encode(self._held_out).unique().numel()
            worst = iou.quantile(0.1).item()
            self._run.log(phase, loss=loss.item(), iou=iou.mean().item(), iou_p10=worst, codes_used=used)
        if self._run.save_is_due:
            self.save()

    def _rate(self, phase: str) -> float:
        """Learning rate: falls to a tenth over the phase with codes, and again over the decoder's."""
        if phase == "plain":
            return _RATE
        low, high = (0.0 if self._tuned else _PLAIN_UNTIL, _CODES_UNTIL) if phase == "codes" else (_CODES_UNTIL, 1.0)
        done = (self._run.share - low) / (high - low)
        return _TUNING_RATE * (1 - 0.9 * min(max(done, 0.0), 1.0))

    def _loss(self, masks: torch.Tensor, phase: str) -> torch.Tensor:
        if phase == "decoder":
            return _reconstruction(self.vae.decode(self.vae.encode(masks)), masks)
        vectors = self.vae.encoder(2 * (masks[:, None] - 0.5))
        if phase == "plain":
            return _reconstruction(self.vae.decoder(vectors)[:, 0], masks)
        flat = vectors.permute(0, 2, 3, 1).reshape(-1, layout.EMBEDDING_SIZE)
        codes = (-2 * flat.detach() @ self.vae.codebook.T + (self.vae.codebook**2).sum(1)).argmin(1)
        quantized = self.vae.codebook[codes]
        self._update_codebook(flat.detach(), codes)
        passed = flat + (quantized - flat).detach()
        grid = passed.reshape(-1, layout.GRID_SIZE, layout.GRID_SIZE, layout.EMBEDDING_SIZE).permute(0, 3, 1, 2)
        decoded = self.vae.decoder(grid)[:, 0]
        away: torch.Tensor = (flat - quantized).square().sum(1).mean() / _scale(flat)
        return _reconstruction(decoded, masks) + _COMMITMENT * away

    @torch.no_grad()
    def _update_codebook(self, vectors: torch.Tensor, codes: torch.Tensor) -> None:
        """Moves each code towards the vectors that chose it; moves rarely chosen codes to frequently chosen places."""
        book = self.vae.state_dict()
        sizes, sums = book["_vq_vae._ema_cluster_size"], book["_vq_vae._ema_w"]
        chosen = nn.functional.one_hot(codes, layout.CODEBOOK_SIZE).float()
        sizes.mul_(_EMA).add_(chosen.sum(0), alpha=1 - _EMA)
        sums.mul_(_EMA).add_(chosen.T @ vectors, alpha=1 - _EMA)
        even = len(vectors) / layout.CODEBOOK_SIZE
        dead = (sizes < _DEAD_BELOW * even).nonzero().flatten()
        if len(dead):
            taken = torch.randperm(len(vectors), generator=self._generator, device=self._device)[: len(dead)]
            sizes[dead] = _REVIVED * even
            sums[dead] = vectors[taken] * _REVIVED * even
        self.vae.codebook.copy_(sums / sizes[:, None].clamp_min(1e-6))

    @torch.no_grad()
    def _place_codes(self, centres: torch.Tensor | None = None) -> None:
        """Runs k-means on the encoder's vectors, starting from some of them or from given centres."""
        masks = torch.from_numpy(sample_masks(self._seed - 1, _KMEANS_MASKS)).to(self._device)
        vectors = self.vae.encoder(2 * (masks[:, None] - 0.5)).permute(0, 2, 3, 1).reshape(-1, layout.EMBEDDING_SIZE)
        if centres is None:
            order = torch.randperm(len(vectors), generator=self._generator, device=self._device)
            centres = vectors[order[: layout.CODEBOOK_SIZE]]
        for _ in range(_KMEANS_ROUNDS):
            nearest = torch.cdist(vectors, centres).argmin(1)
            chosen = nn.functional.one_hot(nearest, layout.CODEBOOK_SIZE).float()
            counts = chosen.sum(0)[:, None]
            centres = torch.where(counts > 0, chosen.T @ vectors / counts.clamp_min(1), centres)
        self.vae.codebook.copy_(centres)
        self._start_statistics()
        self._has_codes = True

    def _start_statistics(self) -> None:
        """Sets the statistics as if all codes had been chosen equally often."""
        even = _BATCH * layout.CODES_PER_MASK / layout.CODEBOOK_SIZE
        book = self.vae.state_dict()
        book["_vq_vae._ema_cluster_size"].fill_(even)
        book["_vq_vae._ema_w"].copy_(self.vae.codebook * even)


def _scale(vectors: torch.Tensor) -> torch.Tensor:
    """The vectors' squared length, by which the commitment loss is divided so that its weight does not depend on it."""
    return vectors.detach().square().sum(1).mean().clamp_min(1e-6)


def _reconstruction(decoded: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Squared error to -1 and 1, plus 1 - soft IoU."""
    soft = torch.sigmoid(_STEEPNESS * decoded)
    overlap = (soft * masks).sum((1, 2)) / (soft + masks - soft * masks).sum((1, 2)).clamp_min(1e-6)
    return nn.functional.mse_loss(decoded, 2 * masks - 1) + (1 - overlap).mean()
