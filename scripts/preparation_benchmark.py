"""Measures how many photographs a second the engine prepares; the work is done in the package benchmarking."""

from parts.model_packages import run_module

if __name__ == "__main__":
    run_module("parts.benchmark.preparation", "paligemma")
