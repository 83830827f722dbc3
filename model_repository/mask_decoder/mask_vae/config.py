"""Where the weights are, from the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

DEMO_MODEL_ID: Final = "paligemma2-demo-224"
DEMO_CHECKPOINT: Final = "vae-demo.npz"
DEFAULT_CHECKPOINT: Final = "vae-oid.npz"


@dataclass(frozen=True, slots=True)
class MaskVaeConfig:
    """Settings of the mask decoder.

    Attributes:
        checkpoint: the npz file of the VQ-VAE.
    """

    checkpoint: Path

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Reads VAE_CHECKPOINT, MODELS_DIR (MODEL_DIR if unset) and, for the default of the first, MODEL_ID."""
        models_dir = environ.get("MODELS_DIR") or environ.get("MODEL_DIR") or "models"
        default = DEMO_CHECKPOINT if environ.get("MODEL_ID") == DEMO_MODEL_ID else DEFAULT_CHECKPOINT
        return cls(checkpoint=Path(models_dir) / (environ.get("VAE_CHECKPOINT") or default))
