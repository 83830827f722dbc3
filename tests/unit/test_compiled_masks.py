"""A process that starts the mask decoder: its compiled code is kept between starts, and it computes in one thread."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stack import REPOSITORY

PROGRAM = """
import logging, os, sys
from pathlib import Path
import jax
import numpy as np
from mask_vae import MaskVae, MaskVaeConfig

logging.basicConfig(level=logging.INFO)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
vae = MaskVae.start(MaskVaeConfig(Path(sys.argv[1]), compiled=Path(sys.argv[2])))
codes = np.arange(48, dtype=np.int32).reshape(3, 16)
np.save(sys.argv[3], vae.decode(codes))
print(len(hits), "compiled before,", len(os.listdir("/proc/self/task")), "threads")
"""


def start(models_dir: Path, compiled: Path, masks: Path, **variables: str) -> tuple[str, np.ndarray]:
    """What a process of its own says that starts a decoder, and its masks."""
    arguments = [str(models_dir / "vae-demo.npz"), str(compiled), str(masks)]
    environ = {"PYTHONPATH": str(REPOSITORY / "model_repository" / "mask_decoder"), "JAX_PLATFORMS": "cpu"}
    environ |= variables
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout + done.stderr, np.load(masks)


def test_what_was_compiled_once_is_read(models_dir: Path, tmp_path: Path) -> None:
    """A server that is started again compiled for seconds; a damaged entry costs no more than that."""
    first, masks = start(models_dir, tmp_path / "compiled", tmp_path / "masks.npy")
    assert "0 compiled before" in first
    (folder,) = (tmp_path / "compiled").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    entries = sorted(folder.iterdir())
    assert len(entries) >= 4
    again, masks_again = start(models_dir, tmp_path / "compiled", tmp_path / "masks.npy")
    assert f"{len(entries)} compiled before" in again
    np.testing.assert_array_equal(masks_again, masks)
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:100])
    damaged, masks_damaged = start(models_dir, tmp_path / "compiled", tmp_path / "masks.npy")
    assert "0 compiled before" in damaged
    np.testing.assert_array_equal(masks_damaged, masks)


@pytest.mark.parametrize("made", ["file", "none"])
def test_a_folder_that_cannot_be_made_keeps_nothing(models_dir: Path, tmp_path: Path, made: str) -> None:
    compiled = Path("/proc/compiled") if made == "none" else tmp_path / "compiled"
    if made == "file":
        compiled.touch()
    said, masks = start(models_dir, compiled, tmp_path / "masks.npy")
    assert "compiled masks are not kept" in said
    assert len(masks) == 3


def test_masks_are_computed_in_one_thread(models_dir: Path, tmp_path: Path) -> None:
    """XLA took a thread for each core: a mask then cost half as much again in processor time."""

    def thread_count(**variables: str) -> int:
        said, _ = start(models_dir, tmp_path / "compiled", tmp_path / "masks.npy", **variables)
        found = re.search(r"(\d+) threads", said)
        assert found
        return int(found[1])

    thread_count()  # compiles, with threads that stay
    assert thread_count() == thread_count(PJRT_NPROC="1") < thread_count(PJRT_NPROC=str(max(os.cpu_count() or 1, 2)))
