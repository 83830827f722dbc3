"""The process that gpu_benchmark.py starts."""

import importlib.util
import sys
import types

import torch

from gpu_benchmark import parse_arguments


def main() -> str | int:
    """Returns the exit status, or an error message."""
    arguments = parse_arguments()
    if not arguments.small and not torch.cuda.is_available():
        return "error: PyTorch sees no GPU here; --small tries the benchmark on the CPU"
    allow_missing_heif()
    from parts.gpu_benchmark.session import run_session  # noqa: PLC0415  # it imports the engine

    return run_session(arguments)


def allow_missing_heif() -> None:
    """Replaces pillow-heif by a stub if it is missing: the engine imports it, but the pictures here are JPEG."""
    if importlib.util.find_spec("pillow_heif") is None:
        nothing = types.ModuleType("pillow_heif")
        nothing.register_heif_opener = lambda: None  # type: ignore[attr-defined]
        sys.modules["pillow_heif"] = nothing


if __name__ == "__main__":
    sys.exit(main())
