"""Compares the server with transformers' `generate` or the reference service: the same work, interleaved in one run.

    a    generate, one request at a time with the model kept loaded
    a1   the same with one PyTorch thread
    b    generate, in left-padded batches of 8
    c    Triton `segment` over gRPC, at 1, 8, 32 and 64 clients
    d    the gateway, at the same

    python scripts/benchmark.py                      the demo checkpoint, and one of 36M random parameters
    python scripts/benchmark.py --json result.json   also as a file
    python scripts/benchmark.py --reference          the demo checkpoint: the gateway and the reference service
    python scripts/benchmark.py --real-size          PaliGemma 2 3B at 224 px, with random weights in bfloat16

Each checkpoint gets two kinds of work. `equal`: every prompt asks for one object that is in the picture, so all answers
have about the same length. `mixed`: by turns an absent object, a box only, one object, two objects.

Every contender gets a share of the jobs in every round, so that noise on the machine affects all of them equally. The
server's figures are for the whole job, masks included; a and b only decode the image and generate. CPU seconds are
those of the serving processes, without the clients. PyTorch's threads in a and b spin as briefly as serve.py sets it
for the server: with the default, any other load on the machine makes a and b many times slower.

--reference compares d with a stand-in for the reference service, which is written from its description: with r, which
loads the model again for each request, and with `r kept`, which keeps it. Each has 16 clients, and all make masks.

--real-size compares a and c only, one after the other, since memory should hold the weights once. It writes 6 GB of
weights into a folder, where the next run finds them. Every answer is stopped after the same number of tokens.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from parts.benchmark.baselines import Baseline
from parts.benchmark.contenders import (
    BATCH_SIZE,
    Contender,
    Key,
    generate_and_server,
    reference_and_server,
    run_baseline,
    run_server,
)
from parts.benchmark.results import Result, add_ratios, print_ratios, print_report
from parts.benchmark.workload import (
    MAX_NEW_TOKENS,
    RANDOM_MODEL_ID,
    SEGMENT_TOKENS,
    WORKS,
    Job,
    make_jobs,
    make_random_checkpoint,
)
from parts.model_packages import environment
from parts.serve.ports import PortError
from parts.serve.server import SPIN_BRIEFLY
from parts.serve.stack import DEMO_MODEL_ID, REPOSITORY, RUN_DIR, StackFailed, running_stack

JOBS: Final = 64  # different pictures; reused in order
REAL_SIZE_MODEL_ID: Final = "random-3b-224"
REAL_SIZE_CLIENTS: Final = (1, 4, 8, 16)
LEAST_REQUESTS: Final = 3  # for each number of clients of the real size
REQUESTS: Final = 64
REQUESTS_BESIDE_REFERENCE: Final = 256


def main() -> int:
    """Returns the exit status."""
    arguments = parse_arguments()
    os.environ.update({**SPIN_BRIEFLY, **os.environ})
    try:
        reports = run_real_size(arguments) if arguments.real_size else run(arguments)
    except (StackFailed, PortError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=2) + "\n", encoding="utf-8")
    return 0


def run(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Runs each checkpoint with each kind of work, and prints a table for each."""
    reports = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        models_dir = Path(folder)
        demo = REPOSITORY / "models" / DEMO_MODEL_ID
        (models_dir / DEMO_MODEL_ID).symlink_to(demo)
        (models_dir / "vae-demo.npz").symlink_to(REPOSITORY / "models" / "vae-demo.npz")
        if RANDOM_MODEL_ID in arguments.models:
            make_random_checkpoint(models_dir / RANDOM_MODEL_ID, demo)
        for model_id in arguments.models:
            is_demo = model_id == DEMO_MODEL_ID
            environ = server_environment(model_id, models_dir, grammar=is_demo)
            start = reference_and_server if arguments.reference else generate_and_server
            with start(models_dir / model_id, environ, arguments.requests) as contenders:
                for work in arguments.work:
                    name = f"{model_id}, {work} work"
                    reports[name] = compare(contenders, make_jobs(JOBS, work, is_random=not is_demo), arguments.rounds)
                    print_report(name, reports[name])
                    if arguments.reference:
                        print_ratios(reports[name])
    return reports


def run_real_size(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The reference, then the server, on a model of the real size; prints a table."""
    folder: Path = arguments.cache / REAL_SIZE_MODEL_ID
    folder.parent.mkdir(parents=True, exist_ok=True)
    writer = [sys.executable, "-m", "parts.benchmark.real_size", str(folder)]
    subprocess.run(writer, env=environment("paligemma", "token_parser"), check=True)
    counts = {clients: arguments.waves * max(clients, LEAST_REQUESTS) for clients in arguments.clients}
    jobs = iter(make_jobs(LEAST_REQUESTS + 2 + sum(counts.values()), is_random=True, max_new_tokens=arguments.tokens))
    reference = Result("a", 1)
    with Baseline(folder) as baseline:
        baseline.answer([next(jobs)])  # warm up
        run_baseline(baseline, reference, list(itertools.islice(jobs, LEAST_REQUESTS)), 1)
    results = [reference]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as models_dir:
        (Path(models_dir) / REAL_SIZE_MODEL_ID).symlink_to(folder.absolute())
        (Path(models_dir) / "vae-demo.npz").symlink_to(REPOSITORY / "models" / "vae-demo.npz")
        environ = server_environment(REAL_SIZE_MODEL_ID, Path(models_dir), grammar=False)
        with running_stack(environ, lambda *_: None) as stack:
            run_server(stack, Result("", 1), [next(jobs)], through_gateway=False)  # warm up
            for clients, count in counts.items():
                results.append(Result("c", clients))
                run_server(stack, results[-1], list(itertools.islice(jobs, count)), through_gateway=False)
                print(f"  c  at {clients:>2}", file=sys.stderr, flush=True)
    name = f"{REAL_SIZE_MODEL_ID}, {arguments.tokens} tokens"
    reports = {name: add_ratios([result.summary() for result in results])}
    print_report(name, reports[name])
    return reports


def server_environment(model_id: str, models_dir: Path, *, grammar: bool) -> dict[str, str]:
    """What the server is told."""
    return {
        **os.environ,
        "MODEL_ID": model_id,
        "MODELS_DIR": str(models_dir),
        "VAE_CHECKPOINT": "vae-demo.npz",
        "GRAMMAR": "on" if grammar else "off",
        "MAX_NEW_TOKENS": str(MAX_NEW_TOKENS),
        "FEATURE_CACHE_BYTES": "0",  # contenders get the same pictures, and `generate` keeps nothing of them
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [DEMO_MODEL_ID, RANDOM_MODEL_ID]
    parser.add_argument("--reference", action="store_true", help="compare with the reference service")
    parser.add_argument("--models", nargs="+", choices=known, help="both; with --reference the demo model")
    parser.add_argument("--work", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--rounds", type=int, default=3)
    requests = (
        f"of the server in each round ({REQUESTS}; with --reference {REQUESTS_BESIDE_REFERENCE}); others have fewer"
    )
    parser.add_argument("--requests", type=int, help=requests)
    real = parser.add_argument_group("real size")
    real.add_argument("--real-size", action="store_true", help="PaliGemma 2 3B at 224 px with random weights")
    real.add_argument("--clients", type=_numbers, default=REAL_SIZE_CLIENTS, help="such as 1,4,8,16, which is usual")
    real.add_argument("--tokens", type=int, default=SEGMENT_TOKENS, help="of each answer (%(default)s)")
    real.add_argument("--waves", type=int, default=1, help="requests of each client (%(default)s)")
    real.add_argument("--cache", type=Path, default=RUN_DIR / "real-size", help="folder of the weights (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    arguments.models = arguments.models or (known[:1] if arguments.reference else known)
    arguments.requests = arguments.requests or (REQUESTS_BESIDE_REFERENCE if arguments.reference else REQUESTS)
    return arguments


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def compare(contenders: dict[Key, Contender], jobs: list[Job], rounds: int) -> list[dict[str, Any]]:
    """All contenders on the same work; returns their summaries, in order."""
    results = {key: Result(*key) for key in contenders}
    for key, contender in contenders.items():  # warm up: the first run's one-time costs are not compared
        contender.run(Result(*key), jobs[: 2 * BATCH_SIZE])
    for round_number in range(rounds):
        for key, contender in contenders.items():
            start = round_number * contender.requests
            chosen = [jobs[index % len(jobs)] for index in range(start, start + contender.requests)]
            contender.run(results[key], chosen)
            print(f"  round {round_number + 1}  {key[0]:<2} at {key[1]:>2}", file=sys.stderr, flush=True)
    return add_ratios([result.summary() for result in results.values()])


if __name__ == "__main__":
    sys.exit(main())
