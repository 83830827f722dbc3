"""Measures how requests per second grow with the number of replicas, and the gateway's own ceiling.

    python scripts/replicas_benchmark.py            over stand-ins for Triton with a fixed delay
    python scripts/replicas_benchmark.py --real     over 1, 2 and 3 real Tritons with the demo model

A stand-in answers a fixed number of requests at once, each after a fixed delay, and costs little itself: what is left
is the gateway. For the ceiling six of them have no delay to speak of. Exits with status 1 if the gateway loses more
than a tenth of what the servers can do, and is not at its ceiling.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import httpx2
import psutil

from parts.benchmark.costs import cpu_s_of
from parts.benchmark.workload import Job, make_jobs
from parts.replicas.load import Load
from parts.serve.ports import free_ports
from parts.serve.stack import HOST, running_stack
from parts.stand_in import STAND_IN, child

SERVERS: Final = (1, 2, 3, 6)
REAL_SERVERS: Final = (1, 2, 3)
DELAY_S: Final = 0.2
PARALLEL: Final = 6
GROWTH: Final = 0.9  # of what the servers can do, that must be reached below the ceiling
NO_DELAY_S: Final = 0.001
NO_DELAY_PARALLEL: Final = 64
CEILING_CLIENTS: Final = 24
CLIENTS_PER_PLACE: Final = 2  # so that no place of a server is ever empty
MAX_CONCURRENT_REQUESTS: Final = 256  # of the gateway; its default is less than six servers are asked here
REAL_CLIENTS: Final = 32
WARM_UP_S: Final = 2.0
START_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A load's result: requests per second, and the gateway's CPU milliseconds for each."""

    per_s: float
    cpu_ms: float


def main() -> int:
    """Prints one line for each figure; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="measure real Tritons instead of stand-ins")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each figure")
    arguments = parser.parse_args()
    if arguments.real:
        measure_real(make_jobs(48), arguments.seconds)
        return 0
    return measure_stand_ins(make_jobs(48), arguments.seconds)


def measure_stand_ins(jobs: Sequence[Job], seconds: float) -> int:
    """Growth over servers of a known speed, then the ceiling; returns 1 where the growth is too small, else 0."""
    each_per_s = PARALLEL / DELAY_S
    lossy_per_s = []
    print(f"each stand-in answers {each_per_s:.0f} requests/s at most")
    for servers in SERVERS:
        with stand_ins(servers, DELAY_S, PARALLEL) as (url, gateway):
            clients = servers * PARALLEL * CLIENTS_PER_PLACE
            measured = measure(url, gateway, jobs, clients=clients, seconds=seconds)
        share = measured.per_s / (servers * each_per_s)
        if share < GROWTH:
            lossy_per_s.append(measured.per_s)
        print(
            f"{servers} servers  {measured.per_s:6.1f} requests/s  {share:4.0%} of theirs  "
            f"{measured.cpu_ms:5.1f} ms of the gateway's CPU each",
            flush=True,
        )
    with stand_ins(SERVERS[-1], NO_DELAY_S, NO_DELAY_PARALLEL) as (url, gateway):
        measured = measure(url, gateway, jobs, clients=CEILING_CLIENTS, seconds=seconds)
    print(
        f"ceiling    {measured.per_s:6.1f} requests/s  {measured.cpu_ms:5.1f} ms of CPU each: "
        f"{1e3 / measured.cpu_ms:.0f} requests/s on a core of its own"
    )
    return int(any(per_s < GROWTH * measured.per_s for per_s in lossy_per_s))


def measure_real(jobs: Sequence[Job], seconds: float) -> None:
    """The demo model on this machine's cores, however many Tritons share them."""
    for servers in REAL_SERVERS:
        with running_stack({**os.environ, "REPLICAS": str(servers)}, lambda *_: None) as stack:
            gateway = psutil.Process(stack.gateway.pid)
            measured = measure(stack.url, gateway, jobs, clients=REAL_CLIENTS, seconds=seconds)
        print(
            f"{servers} Tritons  {measured.per_s:6.1f} requests/s  {measured.cpu_ms:5.1f} ms of the gateway's CPU each"
        )


def measure(url: str, gateway: psutil.Process, jobs: Sequence[Job], *, clients: int, seconds: float) -> Measured:
    """The answers of so many seconds after the load has settled; raises RuntimeError if a request failed."""
    with Load(url, jobs, clients=clients) as load:
        time.sleep(WARM_UP_S)
        answered, cpu_s, started = load.said["200"], cpu_s_of([gateway]), time.perf_counter()
        time.sleep(seconds)
        answered = load.said["200"] - answered
        cpu_s, took_s = cpu_s_of([gateway]) - cpu_s, time.perf_counter() - started
    if set(load.said) != {"200"}:
        raise RuntimeError(f"requests failed: {dict(load.said)}")
    return Measured(answered / took_s, cpu_s / answered * 1e3)


@contextlib.contextmanager
def stand_ins(servers: int, delay_s: float, parallel: int) -> Iterator[tuple[str, psutil.Process]]:
    """A gateway over so many stand-ins: its URL and its process; everything ends with the context."""
    *triton_ports, port = free_ports(HOST, servers + 1)
    environ = {
        **os.environ,
        "TRITON_GRPC_URL": ",".join(f"{HOST}:{each}" for each in triton_ports),
        "GATEWAY_PORT": str(port),
        "GATEWAY_HOST": HOST,
        "MAX_CONCURRENT_REQUESTS": str(MAX_CONCURRENT_REQUESTS),
    }
    with contextlib.ExitStack() as running:
        for each in triton_ports:
            command = [sys.executable, str(STAND_IN), str(each), str(delay_s), str(parallel)]
            running.enter_context(child(command, dict(os.environ)))
        gateway = running.enter_context(child([sys.executable, "-m", "gateway"], environ))
        wait_until_all_serve(f"http://{HOST}:{port}", servers)
        yield f"http://{HOST}:{port}", psutil.Process(gateway.pid)


def wait_until_all_serve(url: str, servers: int) -> None:
    """Returns when the gateway sends requests to every server; raises TimeoutError."""
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        with contextlib.suppress(httpx2.HTTPError):
            lines = httpx2.get(f"{url}/metrics", trust_env=False).text.splitlines()
            serving = [
                line for line in lines if line.startswith("gateway_replica_in_rotation{") and line.endswith(" 1.0")
            ]
            if len(serving) == servers or (servers == 1 and httpx2.get(f"{url}/readyz", trust_env=False).is_success):
                return
        time.sleep(0.1)
    raise TimeoutError(url)


if __name__ == "__main__":
    sys.exit(main())
