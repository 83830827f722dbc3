"""The mask VQ-VAE: 16 codes of a 128-entry codebook to a 64x64 mask, and back."""

from mask_vae.config import MaskVaeConfig
from mask_vae.download import ensure_weights
from mask_vae.errors import CheckpointError, InvalidCodes, MaskVaeError
from mask_vae.vae import MaskVae

__all__ = ["CheckpointError", "InvalidCodes", "MaskVae", "MaskVaeConfig", "MaskVaeError", "ensure_weights"]
