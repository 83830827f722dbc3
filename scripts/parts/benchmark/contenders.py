"""The contenders: transformers' `generate`, the reference service and the server, each with its share of the work."""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from parts.benchmark.baselines import Baseline
from parts.benchmark.costs import Meter, first_token_totals
from parts.benchmark.load import load_gateway, load_triton
from parts.benchmark.results import Result
from parts.benchmark.workload import Job
from parts.model_packages import environment
from parts.serve.child import RUN_DIR, Process, StackFailed
from parts.serve.ports import free_ports
from parts.serve.stack import HOST, Stack, answers, running_stack, wait_for

CLIENTS: Final = (1, 8, 32, 64)
BATCH_SIZE: Final = 8
REFERENCE_CLIENTS: Final = 16
START_TIMEOUT_S: Final = 120.0

Key = tuple[str, int]  # name and number of clients


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to answer.

    Attributes:
        run: answers jobs, and adds to the result what that took.
        requests: in each round; fewer for a slow one, so that rounds stay short.
    """

    run: Callable[[Result, list[Job]], None]
    requests: int


@contextlib.contextmanager
def generate_and_server(checkpoint: Path, environ: dict[str, str], requests: int) -> Iterator[dict[Key, Contender]]:
    """Starts `generate` in all ways, and the server; yields them by name and number of clients, a first.

    Args:
        checkpoint: a folder.
        environ: what the server is told.
        requests: of the server in each round, for each number of clients.
    """
    fewer = max(BATCH_SIZE, requests // 4)
    with (
        running_stack(environ, lambda *_: None) as stack,
        Baseline(checkpoint) as free,
        Baseline(checkpoint, threads=1) as single,
    ):
        named = {
            ("a", 1): Contender(lambda result, jobs: run_baseline(free, result, jobs, 1), fewer),
            ("a1", 1): Contender(lambda result, jobs: run_baseline(single, result, jobs, 1), fewer),
            ("b", BATCH_SIZE): Contender(lambda result, jobs: run_baseline(free, result, jobs, BATCH_SIZE), fewer),
        }
        for name, clients in itertools.product("cd", CLIENTS):
            named[name, clients] = _server(stack, requests, through_gateway=name == "d")
        yield named


@contextlib.contextmanager
def reference_and_server(checkpoint: Path, environ: dict[str, str], requests: int) -> Iterator[dict[Key, Contender]]:
    """The same for the reference service in both ways and the gateway, r first, each with 16 clients."""
    fewer = max(REFERENCE_CLIENTS, requests // 8)
    vae = Path(environ["MODELS_DIR"]) / environ["VAE_CHECKPOINT"]
    with (
        running_stack(environ, lambda *_: None) as stack,
        running_reference(checkpoint, vae, keep=False) as reloading,
        running_reference(checkpoint, vae, keep=True) as keeping,
    ):
        yield {
            ("r", REFERENCE_CLIENTS): Contender(partial(run_reference, reloading), fewer),
            ("r kept", REFERENCE_CLIENTS): Contender(partial(run_reference, keeping), fewer),
            ("d", REFERENCE_CLIENTS): _server(stack, requests, through_gateway=True),
        }


def _server(stack: Stack, requests: int, *, through_gateway: bool) -> Contender:
    return Contender(partial(run_server, stack, through_gateway=through_gateway), requests)


@dataclass(frozen=True, slots=True)
class RunningReference:
    """The process of a reference service, and its URL."""

    process: Process
    url: str


@contextlib.contextmanager
def running_reference(checkpoint: Path, vae: Path, *, keep: bool) -> Iterator[RunningReference]:
    """Runs the stand-in for the reference service; raises StackFailed where it does not start.

    Args:
        checkpoint: a folder.
        vae: weights of the mask decoder.
        keep: whether the model stays loaded.
    """
    RUN_DIR.mkdir(exist_ok=True)
    (port,) = free_ports(HOST, 1)
    module = [sys.executable, "-m", "parts.benchmark.reference_service"]
    command = [*module, str(checkpoint.absolute()), str(vae.absolute()), str(port), *(["--keep"] if keep else [])]
    name = "reference-kept" if keep else "reference"
    with Process(name, command, environment("mask_decoder", "token_parser")) as process:
        url = f"http://{HOST}:{port}"
        give_up_at = time.monotonic() + START_TIMEOUT_S

        def check() -> None:
            process.check()
            if time.monotonic() > give_up_at:
                raise StackFailed(f"{name} does not start; its log is {process.log}")

        wait_for(lambda: answers(f"{url}/healthz"), check)
        yield RunningReference(process, url)


def run_reference(reference: RunningReference, result: Result, jobs: list[Job]) -> None:
    """One round of r."""
    with Meter([reference.process.pid]) as meter:
        result.latencies_s += load_gateway(reference.url, jobs, clients=result.clients)
    add_costs(result, meter, len(jobs))


def run_baseline(baseline: Baseline, result: Result, jobs: list[Job], batch_size: int) -> None:
    """One round of a or b."""
    with Meter([baseline.pid]) as meter:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            first_token_s, total_s = baseline.answer(batch)
            result.latencies_s += [total_s] * len(batch)
            result.first_tokens_s += [first_token_s] * len(batch)
    add_costs(result, meter, len(jobs))


def run_server(stack: Stack, result: Result, jobs: list[Job], *, through_gateway: bool) -> None:
    """One round of c or d."""
    _, grpc, metrics = (port.number for port in stack.triton_ports)
    metrics_url = f"http://{HOST}:{metrics}/metrics"
    roots = [stack.triton.pid, stack.gateway.pid] if through_gateway else [stack.triton.pid]
    seconds_before, requests_before = settled_first_token_totals(metrics_url)
    with Meter(roots) as meter:
        if through_gateway:
            result.latencies_s += load_gateway(stack.url, jobs, clients=result.clients)
        else:
            result.latencies_s += load_triton(f"{HOST}:{grpc}", jobs, clients=result.clients)
    seconds, requests = settled_first_token_totals(metrics_url)
    result.first_tokens_s.append((seconds - seconds_before) / max(1.0, requests - requests_before))
    add_costs(result, meter, len(jobs))


def settled_first_token_totals(metrics_url: str) -> tuple[float, float]:
    """Reads the totals after a pause, because the engine publishes its metrics every half second."""
    time.sleep(0.7)
    return first_token_totals(metrics_url)


def add_costs(result: Result, meter: Meter, requests: int) -> None:
    """Adds one round's costs to a result."""
    result.requests += requests
    result.wall_s += meter.wall_s
    result.cpu_s += meter.cpu_s
    result.peak_bytes = max(result.peak_bytes, meter.peak_bytes)
