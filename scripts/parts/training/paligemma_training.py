"""Trains the demo model's PaliGemma, stage by stage."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from parts.training.answers import AnswerTokens
from parts.training.batches import FIRST_TRAINING_SEED, Batch, Batches
from parts.training.losses import Figures, answer_loss, make_targets, selection_loss, vision_loss
from parts.training.network import SELECTION_LAYERS, Architecture, TrainedNetwork, copy_matching_weights, make_model
from parts.training.progress import Run
from parts.training.stages import SELECTION, VISION, Stage, stages
from parts.training.vae import TorchMaskVae
from parts.training.vocabulary import make_tokenizer

_WARM_UP_STEPS: Final = 40
_FALLING_FROM: Final = 0.45  # share of the run after which the learning rate falls to a twentieth
_LOWEST_RATE: Final = 0.05
_MATRIX_DIMENSIONS: Final = 2
_WEIGHT_DECAY: Final = 0.02
_AVERAGING: Final = 0.98  # decay per step of the averaged weights, which are exported
_LOG_STEPS: Final = 25
_WORKERS: Final = {"cpu": 1, "cuda": 12}  # processes that draw scenes
_VISION_WEIGHT, _SELECTION_WEIGHT = 0.1, 0.3  # beside the answers


class PaliGemmaTraining:
    """One run; `train` starts it, or resumes it from its saved state."""

    def __init__(
        self, run: Run, *, seed: int, architecture: Architecture, vae: TorchMaskVae, warm_from: Path | None, device: str
    ) -> None:
        """Args:
        run: the run's folder and clock.
        seed: random seed of weights and scenes.
        architecture: sizes of the model.
        vae: makes the mask codes.
        warm_from: a checkpoint of the same architecture to start from; None: random weights.
        device: `cpu` or `cuda`.
        """
        self._run, self._seed, self._device = run, seed, device
        self._architecture, self._vae = architecture, vae.to(device).eval()
        self._warm = warm_from is not None
        torch.manual_seed(seed)
        self.tokenizer = make_tokenizer()
        self._tokens = AnswerTokens(self.tokenizer, image_size=architecture.image_size)
        self._soft = self._tokens.soft_targets(vae.codebook.cpu()).to(device)
        model = make_model(architecture, self.tokenizer)
        if warm_from is not None:
            copy_matching_weights(model, self.tokenizer, warm_from, AutoTokenizer.from_pretrained(warm_from))
        self.network = TrainedNetwork(model, self.tokenizer).to(device)
        self._average = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self._optimizers = _optimizers(self.network)
        if state := run.load(device):
            self.network.load_state_dict(state["network"])
            self._average = {name: weight.to(device) for name, weight in state["average"].items()}
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)

    def train(self) -> None:
        """Trains to the end of the run's time, and saves at intervals."""
        for stage in stages(warm=self._warm):
            if self._run.share >= stage.until or self._run.stopped:
                continue
            started = self._run.step
            batches = self._batches(stage)
            for step in self._run.steps(stage.name, stage.until):
                self._set_rate(stage.rate, step - started)
                figures = self._step(stage, next(batches))
                if step % _LOG_STEPS == 0:
                    self._run.log(stage.name, **{name: float(figure) for name, figure in figures.items()})
                if self._run.save_is_due:
                    self.save()
            self.save()

    def save(self) -> None:
        """Saves the state."""
        self._run.save(
            {
                "network": self.network.state_dict(),
                "average": self._average,
                "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            }
        )

    def averaged_model(self) -> Any:
        """The model with averaged weights, which give better answers than the last ones."""
        model = self.network.model
        model.load_state_dict(self._average)
        return model

    def _batches(self, stage: Stage) -> Iterator[Batch]:
        together = self._run.together
        dataset = Batches(
            replace(stage.diet, pictures=stage.diet.pictures // together.count),
            seed=FIRST_TRAINING_SEED + self._seed,
            image_size=self._architecture.image_size,
            grid=self._architecture.grid,
            count=1 << 24,
        )
        workers = _WORKERS[self._device]
        numbers = itertools.count(self._run.step * together.count + together.rank, together.count)
        return iter(DataLoader(dataset, batch_size=None, sampler=_Endless(numbers), num_workers=workers))

    def _set_rate(self, rate: float, stage_step: int) -> None:
        falling = max(0.0, (self._run.share - _FALLING_FROM) / (1 - _FALLING_FROM))
        cosine = _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * falling))
        factor = min(1.0, (stage_step + 1) / _WARM_UP_STEPS) * cosine
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def _step(self, stage: Stage, batch: Batch) -> Figures:
        batch.to(self._device)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):  # CPUs: float32 is as fast
            loss, figures = self._loss(stage, batch)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._run.together.mean_gradients(self.network.parameters())
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        with torch.no_grad():
            for name, weight in self.network.model.state_dict().items():
                self._average[name].lerp_(weight, 1 - _AVERAGING)
        return figures | {"loss": loss.detach()}

    def _loss(self, stage: Stage, batch: Batch) -> tuple[torch.Tensor, Figures]:
        network = self.network
        codes = self._vae.encode(batch.crops)
        targets = make_targets(batch, codes, self._soft, self._tokens)
        if stage.trains == VISION:
            return vision_loss(network, network.encode_images(batch.pixels), batch, targets)
        pictures = torch.tensor([asked.picture for asked in batch.asked], device=self._device)
        if stage.trains == SELECTION:
            with torch.no_grad():
                features = network.encode_images(batch.pixels)
            token_ids, lengths, _ = self._tokens.sequences(batch, codes, with_answers=False)
            hidden = network.read(
                features[pictures], token_ids.to(self._device), lengths.to(self._device), layers=SELECTION_LAYERS
            )
            return selection_loss(network, hidden[-1][:, : features.shape[1]], batch, targets)
        features = network.encode_images(batch.pixels)
        patches = features.shape[1]
        token_ids, lengths, labels = (part.to(self._device) for part in self._tokens.sequences(batch, codes))
        hidden = network.read(features[pictures], token_ids, lengths, layers=self._architecture.text_layers)
        start = int(lengths.min()) - 1  # there is no loss before this position
        logits = network.logits(hidden[-1][:, patches + start :])
        loss, figures = answer_loss(logits, labels[:, start:], self._soft, self._tokens)
        selected, more = selection_loss(network, hidden[SELECTION_LAYERS - 1][:, :patches], batch, targets)
        seen, _ = vision_loss(network, features, batch, targets)
        return loss + _SELECTION_WEIGHT * selected + _VISION_WEIGHT * seen, figures | more


class _Endless(torch.utils.data.Sampler[int]):
    """An endless sampler."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return self._numbers


def _optimizers(network: TrainedNetwork) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the two towers, AdamW for embeddings, heads, norms and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in network.named_parameters():
        is_matrix = ".layers." in name and weight.ndim == _MATRIX_DIMENSIONS
        (matrices if is_matrix else others).append(weight)
    return [
        torch.optim.Muon(matrices, weight_decay=_WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),  # one rate fits both
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]
