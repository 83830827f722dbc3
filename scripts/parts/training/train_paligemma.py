"""Trains the demo model's PaliGemma, and writes its folder.

python scripts/train_paligemma.py --hours 8                                           from nothing
python scripts/train_paligemma.py --hours 8 --warm-from models/paligemma2-demo-224    from other weights
python scripts/train_paligemma.py --hours 12 --architecture large                     a larger one, for a GPU
python scripts/train_paligemma.py --hours 8 --processes 2 --compile                   two cores: half as fast again
Started again with the same folder, it resumes; --export writes the current state without training.
"""

import argparse
from pathlib import Path

import torch

from parts.training.export import export
from parts.training.network import ARCHITECTURES
from parts.training.paligemma_training import PaliGemmaTraining
from parts.training.progress import Run
from parts.training.together import Together, train_together
from parts.training.vae import TorchMaskVae


def main() -> None:
    """Trains, then writes the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=8.0, help="for the whole run, earlier sessions included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vae", type=Path, default=Path("models/vae-demo.npz"), help="makes the mask codes")
    parser.add_argument("--warm-from", type=Path, help="checkpoint to start from")
    parser.add_argument("--state", type=Path, default=Path(".training/paligemma"), help="folder of the saved state")
    parser.add_argument("--output", type=Path, default=Path(".training/paligemma2-demo-224"))
    parser.add_argument("--export", action="store_true", help="train no further")
    parser.add_argument("--processes", type=int, default=1, help="on a CPU: share each step among so many")
    parser.add_argument("--compile", action="store_true", help="fuse the layers' operations; needs a C++ compiler")
    arguments = parser.parse_args()
    train_together(arguments.processes, _train, arguments)


def _train(together: Together, arguments: argparse.Namespace) -> None:
    architecture = ARCHITECTURES[arguments.architecture]
    run = Run(arguments.state, arguments.hours, together)
    training = PaliGemmaTraining(
        run,
        seed=arguments.seed,
        architecture=architecture,
        vae=TorchMaskVae.load(arguments.vae),
        warm_from=arguments.warm_from,
        device=arguments.device,
    )
    if arguments.compile:
        training.network.compile_layers()
    if not arguments.export:
        if together.is_first:
            run.stop_on_signals()
        training.train()
    if together.is_first:
        export(training.averaged_model(), training.tokenizer, architecture, arguments.output)


if __name__ == "__main__":
    main()
