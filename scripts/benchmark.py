"""Compares the server with transformers' `generate`: the same pictures and prompts, interleaved in one run.

    a    generate, one request at a time with the model loaded, as the reference service does
    a1   the same with one PyTorch thread
    b    generate, in left-padded batches of 8
    c    Triton `segment` over gRPC, at 1, 8, 32 and 64 clients
    d    the gateway, at the same

    python scripts/benchmark.py                      the demo checkpoint, and one of 36M random parameters
    python scripts/benchmark.py --json result.json   also as a file

Each checkpoint gets two kinds of work. `equal`: every prompt asks for one object that is in the picture, so all answers
have about the same length. `mixed`: by turns an absent object, a box only, one object, two objects.

Every contender gets a share of the jobs in every round, so that noise on the machine affects all of them equally. The
server's figures are for the whole job, masks included; a and b only decode the image and generate. CPU seconds are
those of the serving processes, without the clients. PyTorch's threads in a and b spin as briefly as serve.py sets it
for the server: with the default, any other load on the machine makes a and b many times slower.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from parts.benchmark.baselines import Baseline
from parts.benchmark.costs import Meter, first_token_totals
from parts.benchmark.load import load_gateway, load_triton
from parts.benchmark.workload import MAX_NEW_TOKENS, RANDOM_MODEL_ID, WORKS, Job, make_jobs, make_random_checkpoint
from parts.serve.ports import PortError
from parts.serve.server import SPIN_BRIEFLY
from parts.serve.stack import DEMO_MODEL_ID, HOST, REPOSITORY, Stack, StackFailed, running_stack

CLIENTS: Final = (1, 8, 32, 64)
BATCH_SIZE: Final = 8
JOBS: Final = 64  # different pictures; reused in order

REFERENCE: Final = "a"


@dataclass(slots=True)
class Result:
    """One contender's measurements over all rounds."""

    name: str
    clients: int
    requests: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    latencies_s: list[float] = field(default_factory=list)
    first_tokens_s: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Rates, percentiles and costs per request."""
        ordered = sorted(self.latencies_s)

        def percentile(share: float) -> float:
            return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

        return {
            "name": self.name,
            "clients": self.clients,
            "requests": self.requests,
            "requests_per_s": self.requests / self.wall_s,
            "p50_s": percentile(0.50),
            "p95_s": percentile(0.95),
            "p99_s": percentile(0.99),
            "first_token_s": statistics.fmean(self.first_tokens_s) if self.first_tokens_s else None,
            "cpu_s_per_request": self.cpu_s / self.requests,
            "peak_mb": self.peak_bytes / 1e6,
        }


Contender = Callable[[Result, list[Job]], None]


def main() -> int:
    """Returns the exit status."""
    arguments = parse_arguments()
    os.environ.update({**SPIN_BRIEFLY, **os.environ})
    try:
        reports = run(arguments)
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


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [DEMO_MODEL_ID, RANDOM_MODEL_ID]
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64, help="for each contender and round; a quarter for a and b")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser.parse_args()


def benchmark(model_id: str, work: str, models_dir: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All contenders on one checkpoint; returns their summaries, the reference's first."""
    is_demo = model_id == DEMO_MODEL_ID
    environ = {
        **os.environ,
        "MODEL_ID": model_id,
        "MODELS_DIR": str(models_dir),
        "VAE_CHECKPOINT": "vae-demo.npz",
        "GRAMMAR": "on" if is_demo else "off",
        "MAX_NEW_TOKENS": str(MAX_NEW_TOKENS),
    }
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


def add_ratios(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds each summary's ratios to the reference: requests per second, requests per CPU second, median latency."""
    reference = summaries[0]
    for summary in summaries:
        summary["times_requests_per_s"] = summary["requests_per_s"] / reference["requests_per_s"]
        summary["times_requests_per_cpu_s"] = reference["cpu_s_per_request"] / summary["cpu_s_per_request"]
        summary["times_p50"] = summary["p50_s"] / reference["p50_s"]
    return summaries


def print_report(model_id: str, summaries: list[dict[str, Any]]) -> None:
    """Prints a table, one line per contender."""
    print(f"\n{model_id}: {os.cpu_count()} CPU cores, times in ms, x = times (a)")
    print("        req/s    x      p50   p95   p99   first   CPU/req   req/CPU x   peak MB")
    for row in summaries:
        first = "    -" if row["first_token_s"] is None else f"{row['first_token_s'] * 1e3:>5.0f}"
        print(
            f"{row['name']:<2} {row['clients']:>2}  {row['requests_per_s']:>6.1f} {row['times_requests_per_s']:>5.2f}"
            f"   {row['p50_s'] * 1e3:>5.0f} {row['p95_s'] * 1e3:>5.0f} {row['p99_s'] * 1e3:>5.0f}   {first}"
            f"   {row['cpu_s_per_request'] * 1e3:>7.0f}   {row['times_requests_per_cpu_s']:>9.2f}"
            f"   {row['peak_mb']:>7.0f}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
