"""What all tests share: where the demo weights are."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def models_dir() -> Path:
    return REPOSITORY / "models"


@pytest.fixture(scope="session")
def sample_image() -> bytes:
    return (REPOSITORY / "docs" / "sample.png").read_bytes()
