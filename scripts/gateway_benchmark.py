"""Measures the gateway's cost: CPU time, added latency, start time and memory.

    python scripts/gateway_benchmark.py
    python scripts/gateway_benchmark.py --command    the labelling command, against Triton and the gateway alone
    python scripts/gateway_benchmark.py --streams 32 --requests 64    what streams cost beside other requests

Starts the demo stack. One client sends 640x480 JPEG pictures with one object each, alternately to Triton's `segment`
over gRPC and to the gateway, so that noise on the machine affects both equally. With --command, 16 pictures at once go
to Triton over gRPC, to the gateway, and through paligemma-segment, by turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import httpx2
import psutil
import tritonclient.grpc as grpcclient

from parts.benchmark.costs import cpu_s_of
from parts.benchmark.labelling import measure_labelling, print_costs
from parts.benchmark.load import load_gateway
from parts.benchmark.workload import Job, make_jobs
from parts.segment_inputs import CHANNEL_OPTIONS, segment_inputs
from parts.serve.ports import read_port
from parts.serve.stack import HOST, REPOSITORY, Stack, running_stack

WARM_UP: Final = 20
STARTS: Final = 5
START_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.01
ROUNDS: Final = 3


def main() -> int:
    """Prints one line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="of each kind")
    parser.add_argument("--command", action="store_true", help="only measure the labelling command")
    parser.add_argument("--rounds", type=int, default=5, help="of --command")
    parser.add_argument("--streams", type=int, help="only measure so many clients that stream beside as many others")
    arguments = parser.parse_args()
    if arguments.command:
        environ = {**os.environ, "FEATURE_CACHE_BYTES": "0"}  # or whoever sends a picture again would be favoured
        with running_stack(environ, lambda *_: None) as stack:
            print_costs(measure_labelling(stack, pictures=arguments.requests, rounds=arguments.rounds))
        return 0
    if arguments.streams:
        with running_stack({**os.environ, "MAX_CONCURRENT_REQUESTS": "1000"}, lambda *_: None) as stack:
            measure_streams(stack, clients=arguments.streams, requests=arguments.requests)
        return 0
    measure_start(dict(os.environ))
    with running_stack(dict(os.environ), lambda *_: None) as stack:
        jobs = make_jobs(64)
        measure_requests(stack, [jobs[index % len(jobs)] for index in range(arguments.requests)])
    return 0


def measure_start(environ: dict[str, str]) -> None:
    """Measures the time from process start to the first answer, and the memory then; the start does not need Triton."""
    url = f"http://{HOST}:{read_port(environ, 'GATEWAY_PORT', 8000).number}/healthz"
    seconds, resident = [], []
    for _ in range(STARTS):
        started = time.perf_counter()
        command = [sys.executable, "-m", "gateway"]
        with subprocess.Popen(command, cwd=REPOSITORY, env=environ, stderr=subprocess.DEVNULL) as process:
            wait_for(url)
            seconds.append(time.perf_counter() - started)
            resident.append(psutil.Process(process.pid).memory_info().rss)
            process.terminate()
    print(f"start to first answer      {statistics.median(seconds):6.2f} s    slowest {max(seconds):.2f} s")
    print(f"resident memory when idle  {statistics.median(resident) / 1e6:6.0f} MB")


def wait_for(url: str) -> None:
    """Waits until the URL answers; raises TimeoutError."""
    give_up_at = time.perf_counter() + START_TIMEOUT_S
    with httpx2.Client(trust_env=False) as client:
        while time.perf_counter() < give_up_at:
            try:
                client.get(url)
            except httpx2.TransportError:
                time.sleep(POLL_S)
            else:
                return
    raise TimeoutError(url)


def measure_requests(stack: Stack, jobs: list[Job]) -> None:
    """Measures the gateway's CPU time per request, and the median latencies with and without it."""
    gateway = psutil.Process(stack.gateway.pid)
    direct_s, through_s, cpu_s = [], [], []
    with (
        grpcclient.InferenceServerClient(
            f"{HOST}:{stack.triton_ports[1].number}", channel_args=CHANNEL_OPTIONS
        ) as triton,
        httpx2.Client(base_url=stack.url, timeout=60, trust_env=False) as client,
    ):
        warm_up = jobs[:WARM_UP]
        for number, job in enumerate([*warm_up, *jobs]):
            direct = timed(lambda job=job: ask_triton(triton, job))  # type: ignore[misc]
            before_s = cpu_s_of([gateway])
            through = timed(lambda job=job: ask_gateway(client, job))  # type: ignore[misc]
            if number >= len(warm_up):
                direct_s.append(direct)
                through_s.append(through)
                cpu_s.append(cpu_s_of([gateway]) - before_s)
    overheads_s = [through - direct for through, direct in zip(through_s, direct_s, strict=True)]
    print(f"CPU for a request          {statistics.fmean(cpu_s) * 1e3:6.1f} ms   mean of {len(jobs)}")
    print(f"median latency, gRPC       {statistics.median(direct_s) * 1e3:6.1f} ms")
    print(f"median latency, gateway    {statistics.median(through_s) * 1e3:6.1f} ms")
    print(f"median overhead            {statistics.median(overheads_s) * 1e3:6.1f} ms   of pairs")
    print(f"resident memory afterwards {gateway.memory_info().rss / 1e6:6.0f} MB   after {2 * len(jobs)} requests")


def measure_streams(stack: Stack, *, clients: int, requests: int) -> None:
    """Measures plain requests and streams together against plain requests alone: their rate, and the servers' CPU time.

    All prompts have two targets. The rounds of both are interleaved.
    """
    jobs = make_jobs(4 * requests, "mixed")[3::4]
    supervisor = psutil.Process(stack.triton.pid)
    servers = [psutil.Process(stack.gateway.pid), supervisor, *supervisor.children(recursive=True)]

    def cost(plain: list[Job], streamed: list[Job], clients: int) -> tuple[float, float]:
        before_s = cpu_s_of(servers)
        elapsed_s = timed(lambda: load_gateway(stack.url, plain, clients=clients, streamed=streamed))
        return elapsed_s, cpu_s_of(servers) - before_s

    cost(jobs, jobs, clients)  # to warm up
    rounds = [(cost(jobs, jobs, clients), cost([*jobs, *jobs], [], 2 * clients)) for _ in range(ROUNDS)]
    both = [tuple(map(statistics.median, zip(*costs, strict=True))) for costs in zip(*rounds, strict=True)]
    for name, (elapsed_s, cpu_s) in zip(("half of them streams", "no streams"), both, strict=True):
        rate, cpu_ms = 2 * requests / elapsed_s, cpu_s / (2 * requests) * 1e3
        print(f"{2 * clients} clients, {name:20}  {rate:6.1f} requests/s  {cpu_ms:6.1f} ms of CPU for a request")
    time_ratio, cpu_ratio = (streamed / plain for streamed, plain in zip(*both, strict=True))
    print(f"streams against none: time {time_ratio:.2f}, CPU {cpu_ratio:.2f}")


def ask_triton(client: grpcclient.InferenceServerClient, job: Job) -> None:
    """One call of `segment`, its outputs read."""
    client.infer("segment", segment_inputs(job.image, job.prompt)).as_numpy("masks")


def ask_gateway(client: httpx2.Client, job: Job) -> None:
    """One POST, its body read."""
    files = {"image_file": ("image.jpg", job.image, "image/jpeg")}
    client.post("/segment", data={"prompt": job.prompt}, files=files).raise_for_status().json()


def timed(work: Callable[[], object]) -> float:
    """Returns the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
