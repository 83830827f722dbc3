"""Where the weights are, from the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

DEMO_MODEL_ID: Final = "paligemma2-demo-224"
DEMO_CHECKPOINT: Final = "vae-demo.npz"
DEFAULT_CHECKPOINT: Final = "vae-oid.npz"
DEFAULT_HUB: Final = "https://huggingface.co"
COMPILED_FOLDER: Final = "compiled"  # below MODELS_DIR

_YES: Final = ("1", "ON", "YES", "TRUE")  # as the hub's own library reads its switches


@dataclass(frozen=True, slots=True)
class MaskVaeConfig:
    """Settings of the mask decoder.

    Attributes:
        checkpoint: the npz file of the VQ-VAE.
        hub: where copies of the published file lie.
        offline: whether nothing may be downloaded.
        compiled: folder of the code that is kept between starts; None keeps none.
    """

    checkpoint: Path
    hub: str = DEFAULT_HUB
    offline: bool = False
    compiled: Path | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Reads the variables of docs/reference/settings.md."""
        models_dir = environ.get("MODELS_DIR") or environ.get("MODEL_DIR") or "models"
        default = DEMO_CHECKPOINT if environ.get("MODEL_ID") == DEMO_MODEL_ID else DEFAULT_CHECKPOINT
        return cls(
            checkpoint=Path(models_dir) / (environ.get("VAE_CHECKPOINT") or default),
            hub=(environ.get("HF_ENDPOINT") or DEFAULT_HUB).rstrip("/"),
            offline=environ.get("HF_HUB_OFFLINE", "").upper() in _YES,
            compiled=Path(models_dir) / COMPILED_FOLDER,
        )
