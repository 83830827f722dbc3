"""Trains the demo model's PaliGemma; see `--help`."""

from parts.model_packages import run_module

if __name__ == "__main__":
    run_module("parts.training.train_paligemma", "mask_decoder", "token_parser")
