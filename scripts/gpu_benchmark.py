"""Compares the engine on a GPU with transformers' `generate`, and with the GPU's measured limits, in one run.

    a         generate, one request at a time with the model loaded, as the reference service does
    b         generate, in left-padded batches of 8
    engine    at 1, 8, 32 and 64 requests at once, each with a picture of its own
    same      the engine at 32, all requests with the same picture and different prompts

    python scripts/gpu_benchmark.py                      PaliGemma 2 3B at 448 px, on a GPU
    python scripts/gpu_benchmark.py --json result.json   also as a file
    python scripts/gpu_benchmark.py --small              a tiny model, on the CPU where there is no GPU

The model is built on the device with random weights, because speed does not depend on their values: nothing is
downloaded. Needs PyTorch, transformers, numpy and Pillow. The engine is configured as in the server, by the same
variables, but runs without Triton and without the grammar. A model with random weights would not end its answers, so
every answer is stopped after 24 tokens.

First the engine's tokens are compared with generate's, in float32 on a model with a few layers; if they differ, the
exit status is 1. Then each contender gets a share of the requests in every round, so that noise affects all of them
equally. "Device idle" is the time between prefills and decode steps in which the device had nothing to do.
A round that would end too late is not begun; after 9 minutes the run is killed.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

from parts.model_packages import environment

LIMIT_S: Final = 530.0  # for the whole run; a process that hangs in the GPU driver does not react to a signal


def main() -> int:
    """Runs the benchmark in a child process, which can be killed; returns the exit status."""
    arguments = parse_arguments()
    environ = environment("paligemma", "token_parser")
    if arguments.small:
        environ.setdefault("OMP_NUM_THREADS", "1")  # a second thread slows a tiny model down
    try:
        command = [sys.executable, "-m", "parts.gpu_benchmark", *sys.argv[1:]]
        return subprocess.run(command, env=environ, timeout=LIMIT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"error: not done after {LIMIT_S:.0f} s", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="a tiny model and little work, to try the benchmark itself"
    )
    parser.add_argument("--rounds", type=int, default=5, help="at most so many")
    parser.add_argument("--rounds-end-s", type=float, default=450.0, help="no round is begun that would end later")
    parser.add_argument("--json", type=Path, help="also write the results to this file, after every round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
