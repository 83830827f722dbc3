"""Compares the server with transformers' `generate`: the same pictures and prompts, interleaved in one run.

    a    generate, one request at a time with the model loaded, as the reference service does
    a1   the same with one PyTorch thread
    b    generate, in left-padded batches of 8
    c    Triton `segment` over gRPC, at 1, 8, 32 and 64 clients
    d    the gateway, at the same

    python scripts/benchmark.py                      the demo checkpoint, and one of 36M random parameters
    python scripts/benchmark.py --json result.json   also as a file
    python scripts/benchmark.py --real-size          PaliGemma 2 3B at 224 px, with random weights in bfloat16

Each checkpoint gets two kinds of work. `equal`: every prompt asks for one object that is in the picture, so all answers
have about the same length. `mixed`: by turns an absent object, a box only, one object, two objects.

Every contender gets a share of the jobs in every round, so that noise on the machine affects all of them equally. The
server's figures are for the whole job, masks included; a and b only decode the image and generate. CPU seconds are
those of the serving processes, without the clients. PyTorch's threads in a and b spin as briefly as serve.py sets it
for the server: with the default, any other load on the machine makes a and b many times slower.

--real-size compares a and c only, one after the other, since memory should hold the weights once. It writes 6 GB of
weights into a folder, where the next run finds them. Every answer is stopped after the same number of tokens.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from parts.benchmark.baselines import Baseline
from parts.benchmark.costs import Meter, first_token_totals
from parts.benchmark.load import load_gateway, load_triton
from parts.benchmark.results import Result, add_ratios, print_report
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
from parts.serve.stack import DEMO_MODEL_ID, HOST, REPOSITORY, RUN_DIR, Stack, StackFailed, running_stack

CLIENTS: Final = (1, 8, 32, 64)
BATCH_SIZE: Final = 8
JOBS: Final = 64  # different pictures; reused in order
REAL_SIZE_MODEL_ID: Final = "random-3b-224"
REAL_SIZE_CLIENTS: Final = (1, 4, 8, 16)
LEAST_REQUESTS: Final = 3  # for each number of clients of the real size

REFERENCE: Final = "a"


Contender = Callable[[Result, list[Job]], None]


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
        for model_id, work in itertools.product(arguments.models, arguments.work):
            name = f"{model_id}, {work} work"
            reports[name] = benchmark(model_id, work, models_dir, arguments)
            print_report(name, reports[name])
    return reports


def run_real_size(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The reference, then the server, on a model of the real size; prints a table."""
    folder: Path = arguments.cache / REAL_SIZE_MODEL_ID
    folder.parent.mkdir(parents=True, exist_ok=True)
    writer = [sys.executable, "-m", "parts.benchmark.real_size", str(folder)]
    subprocess.run(writer, env=environment("paligemma", "token_parser"), check=True)
    counts = {clients: arguments.waves * max(clients, LEAST_REQUESTS) for clients in arguments.clients}
    jobs = iter(make_jobs(LEAST_REQUESTS + 2 + sum(counts.values()), is_random=True, max_new_tokens=arguments.tokens))
    reference = Result(REFERENCE, 1)
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
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64, help="for each contender and round; a quarter for a and b")
    real = parser.add_argument_group("real size")
    real.add_argument("--real-size", action="store_true", help="PaliGemma 2 3B at 224 px with random weights")
    real.add_argument("--clients", type=_numbers, default=REAL_SIZE_CLIENTS, help="such as 1,4,8,16, which is usual")
    real.add_argument("--tokens", type=int, default=SEGMENT_TOKENS, help="of each answer (%(default)s)")
    real.add_argument("--waves", type=int, default=1, help="requests of each client (%(default)s)")
    real.add_argument("--cache", type=Path, default=RUN_DIR / "real-size", help="folder of the weights (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def benchmark(model_id: str, work: str, models_dir: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All contenders on one checkpoint; returns their summaries, the reference's first."""
    is_demo = model_id == DEMO_MODEL_ID
    environ = server_environment(model_id, models_dir, grammar=is_demo)
    jobs = make_jobs(JOBS, work, is_random=not is_demo)
    with contenders(models_dir / model_id, environ) as named:
        results = {key: Result(*key) for key in named}
        for key, contender in named.items():  # warm up: the first run's one-time costs are not compared
            contender(Result(*key), jobs[: 2 * BATCH_SIZE])
        for round_number in range(arguments.rounds):
            for key, contender in named.items():
                count = arguments.requests if key[0] in "cd" else max(BATCH_SIZE, arguments.requests // 4)
                start = round_number * count
                contender(results[key], [jobs[index % len(jobs)] for index in range(start, start + count)])
                print(f"  round {round_number + 1}  {key[0]:<2} at {key[1]:>2}", file=sys.stderr, flush=True)
    return add_ratios([result.summary() for result in results.values()])


@contextlib.contextmanager
def contenders(checkpoint: Path, environ: dict[str, str]) -> Iterator[dict[tuple[str, int], Contender]]:
    """Starts all contenders; yields them by name and number of clients."""
    with (
        running_stack(environ, lambda *_: None) as stack,
        Baseline(checkpoint) as free,
        Baseline(checkpoint, threads=1) as single,
    ):
        named: dict[tuple[str, int], Contender] = {
            (REFERENCE, 1): lambda result, jobs: run_baseline(free, result, jobs, 1),
            ("a1", 1): lambda result, jobs: run_baseline(single, result, jobs, 1),
            ("b", BATCH_SIZE): lambda result, jobs: run_baseline(free, result, jobs, BATCH_SIZE),
        }
        for clients in CLIENTS:
            named["c", clients] = lambda result, jobs: run_server(stack, result, jobs, through_gateway=False)
        for clients in CLIENTS:
            named["d", clients] = lambda result, jobs: run_server(stack, result, jobs, through_gateway=True)
        yield named


def run_baseline(baseline: Baseline, result: Result, jobs: list[Job], batch_size: int) -> None:
    """One round of a or b."""
    started = time.perf_counter()
    with Meter([baseline.pid]) as meter:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            first_token_s, total_s = baseline.answer(batch)
            result.latencies_s += [total_s] * len(batch)
            result.first_tokens_s += [first_token_s] * len(batch)
    add_costs(result, meter, len(jobs), time.perf_counter() - started)


def run_server(stack: Stack, result: Result, jobs: list[Job], *, through_gateway: bool) -> None:
    """One round of c or d."""
    _, grpc, metrics = (port.number for port in stack.triton_ports)
    metrics_url = f"http://{HOST}:{metrics}/metrics"
    roots = [stack.triton.pid, stack.gateway.pid] if through_gateway else [stack.triton.pid]
    seconds_before, requests_before = settled_first_token_totals(metrics_url)
    started = time.perf_counter()
    with Meter(roots) as meter:
        if through_gateway:
            result.latencies_s += load_gateway(stack.url, jobs, clients=result.clients)
        else:
            result.latencies_s += load_triton(f"{HOST}:{grpc}", jobs, clients=result.clients)
    wall_s = time.perf_counter() - started
    seconds, requests = settled_first_token_totals(metrics_url)
    result.first_tokens_s.append((seconds - seconds_before) / max(1.0, requests - requests_before))
    add_costs(result, meter, len(jobs), wall_s)


def settled_first_token_totals(metrics_url: str) -> tuple[float, float]:
    """Reads the totals after a pause, because the engine publishes its metrics every half second."""
    time.sleep(0.7)
    return first_token_totals(metrics_url)


def add_costs(result: Result, meter: Meter, requests: int, wall_s: float) -> None:
    """Adds one round's costs to a result."""
    result.requests += requests
    result.wall_s += wall_s
    result.cpu_s += meter.cpu_s
    result.peak_bytes = max(result.peak_bytes, meter.peak_bytes)


if __name__ == "__main__":
    sys.exit(main())
