"""Trains the demo model's mask VQ-VAE and writes its npz file.

python scripts/train_vae.py --hours 1                 from nothing
python scripts/train_vae.py --hours 1 --start models/vae-demo.npz
Started again with the same folder, it resumes; --export writes the current state without training.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from parts.training.progress import Run
from parts.training.vae_training import VaeTraining


def main() -> None:
    """Trains, then writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0, help="for the whole run, earlier sessions included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="npz file to go on from, with its codes")
    parser.add_argument("--state", type=Path, default=Path(".training/vae"), help="folder of the saved state")
    parser.add_argument("--output", type=Path, default=Path(".training/vae-demo.npz"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export", action="store_true", help="train no further")
    arguments = parser.parse_args()
    run = Run(arguments.state, arguments.hours)
    training = VaeTraining(run, seed=arguments.seed, start=arguments.start, device=arguments.device)
    if not arguments.export:
        run.stop_on_signals()
        training.train()
    iou = training.held_out_iou()
    np.savez(arguments.output, **training.vae.arrays())
    print(f"{arguments.output}: held-out IoU {iou.mean():.4f}, 10th percentile {iou.quantile(0.1):.4f}")


if __name__ == "__main__":
    main()
