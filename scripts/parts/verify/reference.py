"""The same checkpoint in this process, loaded as the server loads it and run by transformers' `generate`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import GenerationConfig

from paligemma_engine.answers.grammar import Grammar
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.checkpoints.files import CheckpointFiles, base_of, size_of
from paligemma_engine.checkpoints.hub import find_checkpoint
from paligemma_engine.checkpoints.loading import load_files, torch_dtype
from paligemma_engine.config import EngineConfig
from paligemma_engine.memory.release import free_gpu_bytes
from paligemma_engine.requests.prepared import TargetPrompt
from parts.verify.errors import CannotVerify

WORKSPACE_BYTES: Final = 2 << 30  # for a prefill at 896 px with its attention scores, and for the libraries


@dataclass(frozen=True, slots=True)
class Followed:
    """What `generate` computes for an answer's tokens, each given those before it.

    Attributes:
        logprobs: float32[T], the tokens' log-probabilities under the full distribution.
        gaps: float32[T], by how many nats the likeliest allowed token is likelier; inf for a token that the grammar
            does not allow.
    """

    logprobs: NDArray[np.float32]
    gaps: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer of `generate`: token ids, with the end token if it was reached, and their log-probabilities."""

    token_ids: tuple[int, ...]
    followed: Followed


def as_served(config: EngineConfig, *, device: str | None) -> EngineConfig:
    """The settings with the reference's device, and with the dtype that the server uses on its own device."""
    served_on = "cuda:0" if torch.cuda.is_available() else "cpu"
    served = dataclasses.replace(config, device=served_on)
    if device is None or torch.device(device).type == torch.device(served_on).type:
        return dataclasses.replace(served, device=device or served_on)
    return dataclasses.replace(served, device=device, dtype=str(torch_dtype(served)).removeprefix("torch."))


def find_files(config: EngineConfig) -> CheckpointFiles:
    """Finds the checkpoint, which the server has downloaded already. Raises EngineError if it is missing."""
    folder, adapter = find_checkpoint(config), None
    if base := base_of(folder):
        adapter, folder = folder, find_checkpoint(dataclasses.replace(config, model_id=base))
    return CheckpointFiles(folder, adapter)


def weight_bytes(config: EngineConfig, files: CheckpointFiles) -> int:
    """Bytes of a checkpoint's weights in memory; raises ModelFailed if a file cannot be read."""
    return size_of(files.folder).numbers * torch_dtype(config, files.folder).itemsize


class Reference:
    """A loaded checkpoint with `generate` and the grammar's tables."""

    def __init__(self, config: EngineConfig, files: CheckpointFiles) -> None:
        """Loads it.

        Raises:
            EngineError: it cannot be loaded.
            CannotVerify: it does not fit the GPU beside the server.
        """
        _require_room(config, files)
        self.checkpoint: Checkpoint = load_files(config, files)
        self._model, self._processor = self.checkpoint.model, self.checkpoint.processor
        own = self._model.generation_config  # may set beams, penalties or another kind of cache
        self._model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
        )
        self.grammar = Grammar.build(self.checkpoint.vocabulary, enabled=config.grammar)

    @property
    def is_exact(self) -> bool:
        """Whether all right implementations choose the same tokens."""
        return bool(self._model.dtype == torch.float32) and not self.checkpoint.is_quantized

    @property
    def dtype(self) -> str:
        """The dtype that the model computes in."""
        return str(self._model.dtype).removeprefix("torch.")

    def input_image(self, upright: Image.Image) -> NDArray[np.uint8]:
        """uint8[R, R, 3]: a picture as the model sees it, recovered from the processor's pixel values."""
        processor = self._processor.image_processor
        values: NDArray[np.float32] = processor(images=upright, return_tensors="np")["pixel_values"][0]
        levels = values.transpose(1, 2, 0) * np.array(processor.image_std) + np.array(processor.image_mean)
        pixels: NDArray[np.uint8] = np.rint(levels / processor.rescale_factor).clip(0, 255).astype(np.uint8)
        return pixels

    def generate(self, upright: Image.Image, asked: TargetPrompt, max_new_tokens: int) -> Generated:
        """The free answer: greedy, one request at a time, without the grammar."""
        return self._generate(upright, asked, max_new_tokens=max_new_tokens)

    def follow(self, upright: Image.Image, asked: TargetPrompt, token_ids: Sequence[int]) -> Followed:
        """Forces `generate` to write an answer, the end token included, and returns what it computes for it."""
        if not token_ids:  # a target that was not answered
            return Followed(np.zeros(0, np.float32), np.zeros(0, np.float32))
        prompt_length: list[int] = []

        def dictate(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if not prompt_length:
                prompt_length.append(input_ids.shape[1])
            dictated = torch.full_like(scores, -torch.inf)
            dictated[:, token_ids[input_ids.shape[1] - prompt_length[0]]] = 0.0
            return dictated

        written = self._generate(upright, asked, max_new_tokens=len(token_ids), logits_processor=[dictate])
        return written.followed

    @torch.inference_mode()
    def _generate(self, upright: Image.Image, asked: TargetPrompt, **options: Any) -> Generated:
        text = f"{self._processor.image_token}{asked.text}"
        inputs = self._processor(images=upright, text=text, return_tensors="pt").to(self._model.device)
        output = self._model.generate(
            **inputs, do_sample=False, output_logits=True, return_dict_in_generate=True, **options
        )
        token_ids = output.sequences[0, inputs["input_ids"].shape[1] :]
        logprobs = torch.cat(output.logits).float().log_softmax(-1)
        chosen = logprobs.gather(-1, token_ids[:, None])[:, 0]
        allowed = torch.from_numpy(self._allowed(asked, token_ids.tolist())).to(logprobs.device)
        best = logprobs.masked_fill(~allowed, -torch.inf).max(-1).values
        gaps = (best - chosen).masked_fill(~allowed.gather(-1, token_ids[:, None])[:, 0], torch.inf)
        return Generated(tuple(token_ids.tolist()), Followed(chosen.cpu().numpy(), gaps.cpu().numpy()))

    def _allowed(self, asked: TargetPrompt, token_ids: Sequence[int]) -> NDArray[np.bool_]:
        """bool[T, V]: the tokens that the grammar allows at each position."""
        states = [self.grammar.start[asked.task]]
        for token_id in token_ids[:-1]:
            states.append(int(self.grammar.next_state[states[-1], self.grammar.classes[token_id]]))
        return self.grammar.allowed[states]


def _require_room(config: EngineConfig, files: CheckpointFiles) -> None:
    if torch.device(config.device).type != "cuda" or config.quantization != "off":
        return
    needed_bytes = weight_bytes(config, files) + WORKSPACE_BYTES
    free_bytes = free_gpu_bytes(torch.device(config.device))
    if needed_bytes > free_bytes:
        raise CannotVerify(
            f"a second copy of the checkpoint needs about {needed_bytes / 1e9:.1f} GB, and {config.device} has "
            f"{free_bytes / 1e9:.1f} GB free; give --device cpu, or start the server with a lower MAX_SLOTS"
        )
