"""Trains the demo model's mask VQ-VAE; see `--help`."""

from parts.model_packages import run_module

if __name__ == "__main__":
    run_module("parts.training.train_vae", "mask_decoder", "token_parser")
