"""Verifies a running server on its own weights.

Compares its answers with those of transformers' `generate` on the same checkpoint, loaded in this process with the
server's own settings, which are read from the same variables (MODEL_ID, MODELS_DIR, DTYPE, QUANTIZATION, GRAMMAR,
VAE_CHECKPOINT and the others of docs/reference/settings.md).

    python scripts/verify.py --model-id google/paligemma2-3b-mix-448
    python scripts/verify.py --pictures holiday --prompt 'segment dog' --prompt 'detect dog ; cat'

In float32 the tokens must be the same. In bfloat16 and float16 and with quantised weights, rounding may change a token.
There 95 % of the boxes must be within 2 bins of 1024 or have an IoU of 0.9, 95 % of the masks must have an IoU of 0.9,
and 95 % of the tokens must be within half a nat of the likeliest token. If the server's grammar is on, an answer is
compared with the free one up to the first malformed token of that, and each token with the likeliest allowed token.

The checkpoint is loaded a second time, beside the server's own; nothing is downloaded unless HF_HUB_OFFLINE=0 is set.

Exit status: 0 the server is right, 1 it is not, 2 nothing could be compared.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from mask_vae import MaskVaeConfig, MaskVaeError, ensure_weights
from paligemma_engine.checkpoints.files import CheckpointFiles
from paligemma_engine.config import ConfigError, EngineConfig
from paligemma_engine.errors import EngineError
from paligemma_engine.preparation.decoding import ImageLimits
from paligemma_engine.preparation.prompts import split_prompt
from parts.verify import checks
from parts.verify.cases import FOLDER_PROMPTS, Case, drawn_cases, folder_cases
from parts.verify.comparison import EXACT, ROUNDED, Comparison, Job, compare
from parts.verify.decoder import Decoders
from parts.verify.errors import CannotVerify
from parts.verify.reference import WORKSPACE_BYTES, Reference, as_served, find_files, weight_bytes
from parts.verify.report import as_json, conclusion, table
from parts.verify.server import Server

MODELS_DIR: Final = Path(__file__).resolve().parent.parent.parent.parent / "models"
DEFAULT_GRPC_PORT: Final = "8011"


def main() -> int:
    """Returns the exit status."""
    arguments = _arguments()
    try:
        return verify(arguments, _environment())
    except (CannotVerify, ConfigError, EngineError, MaskVaeError) as error:
        print(f"error: {error}", file=sys.stderr)
    except torch.OutOfMemoryError:
        print("error: the GPU has no room for a second copy of the checkpoint; give --device cpu", file=sys.stderr)
    return 2


def verify(arguments: argparse.Namespace, environ: dict[str, str]) -> int:
    """Asks the server, compares and prints; returns the exit status."""
    own_id = environ.get("MODEL_ID") or arguments.model_id  # the mask decoder uses it, whichever model is compared
    settings = replace(EngineConfig.from_env(environ), model_id=arguments.model_id or own_id)
    config = as_served(settings, device=arguments.device)
    cases = _cases(arguments, config)
    max_new_tokens = min(arguments.max_new_tokens, config.max_new_tokens)
    weights = ensure_weights(replace(MaskVaeConfig.from_env({**environ, "MODEL_ID": own_id}), offline=True))
    decoders = Decoders.load(weights)
    files = find_files(config)
    with Server(arguments.server, config.model_id, max_new_tokens=max_new_tokens) as server:
        alone = [server.ask(case) for case in tqdm(cases, desc="alone")]
        print(_loading(config, files), file=sys.stderr, flush=True)
        reference = Reference(config, files)
        job = Job(max_new_tokens, config.grammar, EXACT if reference.is_exact else ROUNDED)
        targets = sum(len(split_prompt(case.prompt)) for case in cases)
        compared = list(tqdm(compare(reference, cases, alone, job), desc="generate", total=targets))
        repeated = cases * arguments.rounds
        loaded = server.ask_many(repeated, clients=arguments.clients)
        rows = [
            checks.check_pictures(reference, cases, alone),
            *checks.check_answers(compared, decoders, job.tolerance),
            checks.check_load(repeated, alone * arguments.rounds, loaded, arguments.clients, job.tolerance),
            *checks.check_decoder(decoders, server.decode_masks, compared),
        ]
    return _report(_settings(config, files, reference, weights), rows, compared, arguments.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    port = os.environ.get("TRITON_GRPC_PORT") or DEFAULT_GRPC_PORT
    parser.add_argument("--model-id", help="which model shall answer; default: MODEL_ID")
    parser.add_argument("--server", default=f"localhost:{port}", help="Triton's gRPC, host and port (%(default)s)")
    parser.add_argument("--pictures", type=Path, help="folder of pictures; default: the sample and drawn ones")
    parser.add_argument("--prompt", action="append", help="for --pictures; may be given several times")
    parser.add_argument("--count", type=_positive, default=8, help="pictures at most (%(default)s)")
    parser.add_argument("--max-new-tokens", type=_positive, default=64, help="for each target (%(default)s)")
    parser.add_argument("--clients", type=_positive, default=16, help="requests at once, under load (%(default)s)")
    parser.add_argument("--rounds", type=_positive, default=2, help="how often each case is sent under load")
    parser.add_argument(
        "--device", type=_device, help="for the second copy: cpu where the GPU has no room; default: the server's"
    )
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    arguments = parser.parse_args()
    if arguments.prompt and not arguments.pictures:
        parser.error("--prompt is for --pictures; drawn pictures have prompts of their own")
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"{arguments.json.parent} is no folder; name a file in one that is there")
    if not arguments.model_id and not os.environ.get("MODEL_ID"):
        parser.error("say which model the server serves: set MODEL_ID as it has it, or give --model-id")
    return arguments


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _device(text: str) -> str:
    try:
        torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no device; give cpu, cuda or cuda:1") from None
    return text


def _environment() -> dict[str, str]:
    """The server's variables as set in this process's environment."""
    models_dir = os.environ.get("MODELS_DIR") or os.environ.get("MODEL_DIR") or str(MODELS_DIR)
    return {**os.environ, "MODELS_DIR": models_dir}


def _cases(arguments: argparse.Namespace, config: EngineConfig) -> list[Case]:
    if arguments.pictures is None:
        return drawn_cases(arguments.count)
    limits = ImageLimits(max_bytes=config.max_image_bytes, max_pixels=config.max_image_pixels)
    prompts: Sequence[str] = arguments.prompt or FOLDER_PROMPTS
    cases, skipped = folder_cases(arguments.pictures, prompts, limits, arguments.count)
    for line in skipped:
        print(f"left out: {line}", file=sys.stderr)
    return cases


def _loading(config: EngineConfig, files: CheckpointFiles) -> str:
    gigabytes = (weight_bytes(config, files) + WORKSPACE_BYTES) / 1e9
    return (
        f"Loading {config.model_id} a second time, beside the server's own: at most about {gigabytes:.1f} GB more on "
        f"{config.device}{'' if config.device == 'cpu' else ' (--device cpu takes it elsewhere)'}"
    )


def _settings(config: EngineConfig, files: CheckpointFiles, reference: Reference, vae: Path) -> dict[str, Any]:
    return {
        "model_id": config.model_id,
        "folder": str(files.adapter or files.folder),
        "device": config.device,
        "dtype": reference.dtype,
        "quantization": config.quantization,
        "grammar": "on" if config.grammar else "off",
        "mask_decoder": str(vae),
        "compared": "exactly" if reference.is_exact else "within rounding",
    }


def _report(settings: dict[str, Any], rows: list[checks.Check], compared: list[Comparison], file: Path | None) -> int:
    if file is not None:
        file.write_text(json.dumps(as_json(settings, rows, compared), indent=2) + "\n")
    print(", ".join(f"{name} {value}" for name, value in settings.items()), end="\n\n")
    print(table(rows), conclusion(rows, compared), sep="\n\n")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
