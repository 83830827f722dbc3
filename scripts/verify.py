"""Verifies a running server against transformers' `generate` on the same checkpoint; see `--help`."""

import os

from parts.model_packages import run_module

if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the server has the files; a mistyped id must not start a download
    run_module("parts.verify", "paligemma", "mask_decoder", "token_parser")
