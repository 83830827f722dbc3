"""Writes PaliGemma 2 3B at 224 px with random weights in bfloat16, as the hub has it: speed is the same for any values.

    python -m parts.benchmark.real_size FOLDER

Runs in a process of its own, since it takes 7 GB of memory.
"""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Final

import torch

from parts.gpu_benchmark.architecture import PALIGEMMA2_3B_448, Architecture, make_model, make_processor

PALIGEMMA2_3B_224: Final = dataclasses.replace(PALIGEMMA2_3B_448, name="PaliGemma 2 3B at 224 px", image_size=224)
SHARD_SIZE: Final = "2GB"


def write_checkpoint(folder: Path, architecture: Architecture, *, shard_size: str = SHARD_SIZE) -> None:
    """Writes a checkpoint with sharded safetensors; a folder that is there is complete, and stays as it is.

    Args:
        folder: made; what an interrupted attempt left is removed.
        architecture: its sizes.
        shard_size: of a file at most, as transformers takes it.
    """
    if folder.is_dir():
        return
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    model = make_model(architecture, device=torch.device("cpu"), dtype=torch.bfloat16)
    model.save_pretrained(unfinished, max_shard_size=shard_size)
    make_processor(architecture).save_pretrained(unfinished)
    unfinished.rename(folder)


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[1]), PALIGEMMA2_3B_224)
