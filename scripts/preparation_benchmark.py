"""Measures how many photographs per second the engine prepares; see scripts/parts/benchmark/preparation.py."""

from parts.model_packages import run_module

if __name__ == "__main__":
    run_module("parts.benchmark.preparation", "paligemma")
