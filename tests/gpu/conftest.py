"""Tests of what only a GPU can show. Where PyTorch sees none, each is skipped and says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint

SHORT_WINDOW = 12  # the random checkpoint's prompts are longer


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU here")
    return torch.device("cuda:0")


@pytest.fixture(scope="session", autouse=True)
def exact_float32() -> Iterator[None]:
    """No TF32: it would round float32 to 10 bits, and tokens could not be compared."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="session")
def random_models(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint `random`, whose answers vary and never end."""
    folder = tmp_path_factory.mktemp("models")
    make_random_checkpoint(folder / "random", models_dir / DEMO_MODEL_ID, sliding_window=SHORT_WINDOW)
    return folder
