"""How the demo model's mask autoencoder is trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from step_clock import StepClock

from mask_vae.vae import MaskVae
from parts.training import vae_training
from parts.training.masks import sample_masks
from parts.training.progress import Run
from parts.training.vae import TorchMaskVae
from parts.training.vae_training import VaeTraining


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_the_autoencoder_is_the_served_one(models_dir: Path) -> None:
    vae = TorchMaskVae.load(models_dir / "vae-demo.npz")
    flax = MaskVae.load(models_dir / "vae-demo.npz")
    masks = sample_masks(9, 8)
    codes = vae.encode(torch.from_numpy(masks))
    np.testing.assert_array_equal(codes, flax.encode(masks))
    with torch.no_grad():
        np.testing.assert_allclose(vae.decode(codes), flax.decode(codes.numpy().astype(np.int32)), atol=1e-4)
    assert set(vae.arrays()) == set(np.load(models_dir / "vae-demo.npz").files)


def test_the_autoencoder_learns_from_nothing_and_keeps_its_codes_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parts.training.progress.time", StepClock())
    monkeypatch.setattr(vae_training, "_LOG_STEPS", 1)
    monkeypatch.setattr(vae_training, "_HELD_OUT", 16)
    monkeypatch.setattr(vae_training, "_BATCH", 8)
    monkeypatch.setattr(vae_training, "_KMEANS_MASKS", 32)
    VaeTraining(Run(tmp_path, 12 / 3600), seed=1, start=None).train()
    losses = [line["loss"] for line in curve(tmp_path) if line["phase"] == "decoder"]
    assert losses[-1] < losses[0]
    stopped = VaeTraining(Run(tmp_path, 12 / 3600), seed=1, start=None)
    codes = stopped.vae.codebook.clone()
    longer = VaeTraining(Run(tmp_path, 20 / 3600), seed=1, start=None)
    longer.train()
    assert torch.equal(longer.vae.codebook, codes)
    phases = [line["phase"] for line in curve(tmp_path)]
    assert list(dict.fromkeys(phases)) == ["plain", "codes", "decoder"]
