"""What all tests share: where the demo weights are, and a real stack."""

import logging
from pathlib import Path

import pytest
from real_stack import stack

__all__ = ["stack"]  # a fixture; one for several folders, so that Triton starts once

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Adds a logger that a server's thread would add at its first connection, while pytest goes through all loggers."""
    logging.getLogger("uvicorn.access")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    return REPOSITORY / "models"


@pytest.fixture(scope="session")
def sample_image() -> bytes:
    return (REPOSITORY / "docs" / "sample.png").read_bytes()
