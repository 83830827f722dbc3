"""Prints how much GPU memory a slot takes, and how many slots fit; see scripts/parts/replicas/memory_table.py."""

from parts.model_packages import run_module

if __name__ == "__main__":
    run_module("parts.replicas.memory_table", "paligemma", "token_parser")
