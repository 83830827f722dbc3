"""Proves a running server right on its own weights; `--help` says how."""

import os

from parts.model_packages import run_module

if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the server has the files; a typing error shall not fetch others
    run_module("parts.verify", "paligemma", "mask_decoder", "token_parser")
