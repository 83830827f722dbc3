"""Measures how well a model segments, by the published protocol; see `--help`."""

from parts.model_packages import run_module

if __name__ == "__main__":
    run_module("parts.evaluate", "mask_decoder", "token_parser")
