"""Measures the labelling command against the bare server: the same pictures and prompts, by turns."""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from parts.benchmark.costs import Meter
from parts.benchmark.load import load_gateway, load_triton
from parts.benchmark.workload import MAX_NEW_TOKENS, Job, make_jobs
from parts.serve.stack import HOST, REPOSITORY, Stack

CLIENTS: Final = 16
WARM_UP: Final = 32
OWN_TIME: Final = re.compile(r"^(\d+) pictures done in ([\d.]+) s", re.MULTILINE)


@dataclass(slots=True)
class Cost:
    """What one way of asking cost in all rounds; the client is what sends the requests.

    Attributes:
        start_s: a round's seconds that were not work on pictures.
        rates: a round's pictures per second of the rest.
    """

    pictures: int = 0
    triton_cpu_s: float = 0.0
    gateway_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    start_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


# Sends pictures; returns the seconds of it that were not work on pictures, such as a command's start.
Way = Callable[[Sequence[Job]], float]


def measure_labelling(stack: Stack, *, pictures: int, rounds: int) -> dict[str, Cost]:
    """All ways by turns, each with its own CPU times; FEATURE_CACHE_BYTES must be 0, or the second way is favoured."""
    jobs = make_jobs(pictures)
    with tempfile.TemporaryDirectory(prefix="labelling-") as folder:
        listed = write_list(Path(folder), jobs)
        grpc_url = f"{HOST}:{stack.triton_ports[1].number}"
        ways: dict[str, Way] = {
            "gRPC": lambda jobs: without_start(load_triton(grpc_url, jobs, clients=CLIENTS)),
            "REST": lambda jobs: without_start(load_gateway(stack.url, jobs, clients=CLIENTS)),
            "command": lambda jobs: run_command(stack.url, listed, len(jobs)),
        }
        costs = {name: Cost() for name in ways}
        for name, way in ways.items():
            if name != "command":
                way(jobs[:WARM_UP])
        for _ in range(rounds):
            for name, way in ways.items():
                measure(stack, costs[name], jobs, way)
    return costs


def measure(stack: Stack, cost: Cost, jobs: Sequence[Job], way: Way) -> None:
    """Adds one round of one way."""
    client_before_s = client_cpu_s()
    started = time.perf_counter()
    with Meter([stack.triton.pid]) as triton, Meter([stack.gateway.pid]) as gateway:
        start_s = way(jobs)
    cost.rates.append(len(jobs) / (time.perf_counter() - started - start_s))
    cost.start_s.append(start_s)
    cost.client_cpu_s += client_cpu_s() - client_before_s
    cost.triton_cpu_s += triton.cpu_s
    cost.gateway_cpu_s += gateway.cpu_s
    cost.pictures += len(jobs)


def client_cpu_s() -> float:
    """CPU seconds of this process and of the commands that it has started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def write_list(folder: Path, jobs: Sequence[Job]) -> Path:
    """Writes the pictures, and the list of them with their prompts that the command reads."""
    entries = []
    for number, job in enumerate(jobs):
        name = f"{number:04d}.jpg"
        (folder / name).write_bytes(job.image)
        entries.append(json.dumps({"picture": name, "prompt": job.prompt}))
    listed = folder / "list.jsonl"
    listed.write_text("\n".join(entries), encoding="utf-8")
    return listed


def run_command(url: str, listed: Path, pictures: int) -> float:
    """Runs paligemma-segment over the list, into a COCO file; returns the seconds of its start and end.

    Raises:
        RuntimeError: the command failed, or did not answer all pictures.
    """
    command = [sys.executable, "-m", "paligemma_client.command", str(listed), "--server", url, "--restart"]
    command += ["--coco", str(listed.with_name("out.json")), "--concurrency", str(CLIENTS)]
    command += ["--max-new-tokens", str(MAX_NEW_TOKENS)]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY / "client")}
    started = time.perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    whole_s = time.perf_counter() - started
    said = OWN_TIME.search(done.stderr)
    if done.returncode != 0 or said is None or int(said[1]) != pictures:
        raise RuntimeError(f"paligemma-segment ended with status {done.returncode}: {done.stderr}")
    return whole_s - float(said[2])


def without_start(_latencies_s: list[float]) -> float:
    """The loads of this process have no start."""
    return 0.0


def print_costs(costs: dict[str, Cost]) -> None:
    """A line for each way: medians of the rounds, of which each is compared with gRPC's in the same round."""
    print(f"{CLIENTS} pictures at once   pictures/s   of gRPC   CPU ms for a picture: triton   gateway   client")
    for name, cost in costs.items():
        share = median(rate / reference for rate, reference in zip(cost.rates, costs["gRPC"].rates, strict=True))
        triton, gateway, client = (
            1e3 * seconds / cost.pictures for seconds in (cost.triton_cpu_s, cost.gateway_cpu_s, cost.client_cpu_s)
        )
        print(f"{name:<20} {median(cost.rates):10.1f}   {share:7.2f}   {triton:28.1f}   {gateway:7.1f}   {client:6.1f}")
    print(f"start and end of the command {median(costs['command'].start_s):.2f} s")
