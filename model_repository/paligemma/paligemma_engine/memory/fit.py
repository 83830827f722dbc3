"""Whether a checkpoint fits the memory of device and host, and the disk.

before a download    by the sizes that the hub lists     against the total memory, and the disk
before an eviction   by the headers of its files         against the total memory
before it is read    the same                            against the free memory
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch
from transformers import AutoConfig

from paligemma_engine.checkpoints.files import CheckpointFiles, CheckpointSize, is_quantized
from paligemma_engine.checkpoints.loading import torch_dtype
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import ModelFailed
from paligemma_engine.memory.release import free_gpu_bytes, free_host_bytes
from paligemma_engine.memory.slot_plan import MemoryNeed, too_large
from paligemma_engine.preparation.prompt_tokens import MAX_PROMPT_TOKENS

DISK_RESERVE_BYTES: Final = 1_000_000_000  # left free after a download
_GIGABYTE: Final = 1_000_000_000

# Lower bounds: weights that are not quantised, such as the embedding, take more.
_QUANTIZED_BYTES: Final = {"8bit": 1.0, "4bit": 0.5}


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that is needed or available, in bytes.

    Attributes:
        gpu_bytes: of the GPU; 0 if the model runs on the CPU.
        host_bytes: of the host, within the container's limit.
    """

    gpu_bytes: int
    host_bytes: int

    @classmethod
    def free(cls, device: str) -> Self:
        """Returns the free memory."""
        on_gpu = torch.device(device).type == "cuda"
        return cls(gpu_bytes=free_gpu_bytes(torch.device(device)) if on_gpu else 0, host_bytes=free_host_bytes())

    @classmethod
    def needed(cls, config: EngineConfig, files: CheckpointFiles, size: CheckpointSize) -> Self:
        """Returns the memory of a checkpoint with its slots; one slot if MAX_SLOTS is auto.

        Args:
            config: settings.
            files: the checkpoint's folder; only small files are read.
            size: size of the checkpoint, or of an adapter's base.

        Raises:
            ModelFailed: its config.json cannot be read.
        """
        as_they_are = size.numbers * torch_dtype(config, files.folder).itemsize
        weight_bytes, merge_bytes = as_they_are, 0
        if is_quantized(files.folder):
            weight_bytes = size.weight_bytes
        elif config.quantization != "off":
            weight_bytes = math.ceil(size.numbers * _QUANTIZED_BYTES[config.quantization])
            merge_bytes = as_they_are if files.adapter else 0
        need = _beside_weights(config, files.folder)
        if torch.device(config.device).type == "cuda":
            slots = config.max_slots or 1
            return cls(gpu_bytes=weight_bytes + need.for_slots(slots), host_bytes=merge_bytes)
        slots = config.max_slots or 1
        return cls(gpu_bytes=0, host_bytes=weight_bytes + merge_bytes + slots * need.slot_bytes)

    def at_least(self, other: Self) -> Self:
        """Returns the larger value of each kind."""
        return type(self)(max(self.gpu_bytes, other.gpu_bytes), max(self.host_bytes, other.host_bytes))

    def fits(self, available: Self) -> bool:
        """Whether this need fits."""
        return self.gpu_bytes <= available.gpu_bytes and self.host_bytes <= available.host_bytes

    def require(self, available: Self, model_id: str) -> None:
        """Raises ModelFailed if a checkpoint's need does not fit; the message says what to set."""
        if self.gpu_bytes > available.gpu_bytes:
            raise ModelFailed(
                f"{model_id} needs {_amount(self.gpu_bytes)} of the GPU's memory, of which it can have "
                f"{_amount(available.gpu_bytes)}; {too_large()}"
            )
        if self.host_bytes > available.host_bytes:
            smaller = "" if self.gpu_bytes else "set DTYPE=bfloat16, QUANTIZATION=8bit or a lower MAX_SLOTS, "
            raise ModelFailed(
                f"{model_id} needs {_amount(self.host_bytes)} of the host's memory, of which it can have "
                f"{_amount(available.host_bytes)}; raise the container's limit, {smaller}or choose a smaller checkpoint"
            )


def require_disk(size: CheckpointSize, folder: Path, model_id: str) -> None:
    """Raises ModelFailed if a download would leave less than DISK_RESERVE_BYTES on the disk of a folder."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if size.download_bytes and size.download_bytes + DISK_RESERVE_BYTES > free_bytes:
        raise ModelFailed(
            f"{model_id} is {_amount(size.download_bytes)} to download, and {_amount(free_bytes)} are free in "
            f"{folder}, of which {_amount(DISK_RESERVE_BYTES)} stay free; make room, or choose a smaller checkpoint"
        )


def _beside_weights(config: EngineConfig, folder: Path) -> MemoryNeed:
    try:
        read: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        image_tokens = (read.vision_config.image_size // read.vision_config.patch_size) ** 2
        return MemoryNeed.of(
            read.get_text_config(),
            prompt_length=image_tokens + MAX_PROMPT_TOKENS,
            max_new_tokens=config.max_new_tokens,
            dtype=torch_dtype(config, folder),
            feature_cache_bytes=config.feature_cache_bytes,
            captured=config.cuda_graphs != "off" and config.quantization == "off" and not is_quantized(folder),
        )
    except Exception as error:  # checkpoints fail in many ways
        raise ModelFailed(
            f"{config.model_id} has a config.json that cannot be used ({type(error).__name__})"
        ) from error


def _amount(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= _GIGABYTE else f"{size_bytes / 1e6:.0f} MB"
