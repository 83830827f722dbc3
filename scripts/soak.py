"""Sends requests of every kind to a real server, many at once: each must get exactly one answer of the right kind.

Valid requests must get the same answer as alone; broken, too long and late ones must be refused with the right code;
abandoned ones must be cancelled. Then a flood: so many requests at the same moment that most must be refused. Prints
the outcomes, whether a slot leaked, and how the server's memory changed.

    python scripts/soak.py
    python scripts/soak.py --requests 500 --clients 8
"""

import argparse
import asyncio
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Final

import httpx2
import numpy as np
import tritonclient.grpc.aio as grpcclient

from parts.segment_inputs import CHANNEL_OPTIONS
from parts.serve.stack import HOST, Stack, running_stack
from parts.soak.caller import Caller, Tally
from parts.soak.kinds import OK, good_calls, mixed_calls
from parts.soak.memory import resident_bytes, shared_memory_bytes

BAD_SHARE: Final = 0.4
MEMORY_SAMPLES: Final = 10
WARM_SHARE: Final = 0.2  # of the requests; after them memory must not grow
PUBLISH_S: Final = 1.5  # the engine publishes its metrics every half second
GAUGES: Final = ("paligemma_active_slots", "paligemma_pending_requests")


@dataclass(slots=True)
class MemoryLog:
    """Memory samples: number of requests answered, bytes by process, bytes of shared memory."""

    root: int
    samples: list[tuple[int, dict[str, int], int]] = field(default_factory=list)

    def take(self, answered: int) -> None:
        """One sample."""
        self.samples.append((answered, resident_bytes(self.root), shared_memory_bytes()))

    def slopes(self, first: int) -> dict[str, float]:
        """Bytes per request and process, fitted over the samples from `first` requests on."""
        kept = [sample for sample in self.samples if sample[0] >= first]
        answered = [sample[0] for sample in kept]
        return {name: float(np.polyfit(answered, [sample[1][name] for sample in kept], 1)[0]) for name in kept[0][1]}


def main() -> int:
    """Returns 0 if every check passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--flood", type=int, default=500, help="requests at the same moment")
    arguments = parser.parse_args()
    with running_stack(dict(os.environ), lambda *_: None) as stack:
        problems = asyncio.run(soak(stack, arguments))
    for problem in problems:
        print(f"WRONG  {problem}")
    return 1 if problems else 0


async def soak(stack: Stack, arguments: argparse.Namespace) -> list[str]:
    """Runs both parts; returns the problems."""
    _, grpc, metrics = (port.number for port in stack.triton_ports)
    memory = MemoryLog(stack.triton.pid)
    every = max(1, arguments.requests // MEMORY_SAMPLES)

    async def after_each(answered: int) -> None:
        if answered % every == 0:
            await asyncio.to_thread(memory.take, answered)

    async with grpcclient.InferenceServerClient(f"{HOST}:{grpc}", channel_args=CHANNEL_OPTIONS) as client:
        caller = Caller(client)
        await caller.ask_alone(good_calls())
        memory.take(0)
        started = time.monotonic()
        calls = mixed_calls(arguments.requests, seed=0, bad_share=BAD_SHARE)
        tally = await caller.ask_all(calls, clients=arguments.clients, after_each=after_each)
        print(f"{tally.count} requests, {arguments.clients} at once, {time.monotonic() - started:.0f} s")
        problems = report(tally, arguments.requests) + leaks(f"http://{HOST}:{metrics}/metrics")
        report_memory(memory, int(WARM_SHARE * arguments.requests))
        return problems + await flood(caller, arguments.flood)


async def flood(caller: Caller, count: int) -> list[str]:
    """Sends `count` requests at the same moment, then one alone; returns the problems."""
    calls = (good_calls() * (count // len(good_calls()) + 1))[:count]
    started = time.monotonic()
    outcomes = await asyncio.gather(*(caller.outcome_of(call) for call in calls))
    summary = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    print(f"\n{count} requests at the same moment, {time.monotonic() - started:.1f} s: {summary}")
    started = time.monotonic()
    after = await caller.outcome_of(calls[0])
    print(f"one request after that: {after} after {time.monotonic() - started:.2f} s")
    return [f"flood: {outcome}" for outcome in {*summary, after} - {OK, "overloaded"}]


def report(tally: Tally, expected: int) -> list[str]:
    """Prints a line for each kind and outcome; returns the problems."""
    for (kind, outcome), count in sorted(tally.outcomes.items()):
        print(f"  {kind:<18} {outcome:<16} {count:>5}")
    problems = [f"{call.kind}: {outcome}" for call, outcome in tally.wrong]
    return problems if tally.count == expected else [*problems, f"{tally.count} answers to {expected} requests"]


def leaks(metrics_url: str) -> list[str]:
    """Returns the gauges that have not returned to 0."""
    time.sleep(PUBLISH_S)
    lines = httpx2.get(metrics_url, timeout=10, trust_env=False).text.splitlines()
    return [line for line in lines if line.startswith(GAUGES) and float(line.rpartition(" ")[2]) != 0]


def report_memory(memory: MemoryLog, warm: int) -> None:
    """Prints memory by process, and its slope once warm."""
    print("\nresident memory in MB")
    print("  answered    " + "  ".join(memory.samples[0][1]) + "  shared memory")
    for answered, sizes, shared in memory.samples:
        print(
            f"  {answered:>8}    " + "  ".join(f"{size / 1e6:.1f}" for size in sizes.values()) + f"  {shared / 1e6:.1f}"
        )
    for name, slope in memory.slopes(warm).items():
        print(f"  {name}: {slope * 1000 / 1e6:+.2f} MB for 1,000 requests, from request {warm} on")


if __name__ == "__main__":
    sys.exit(main())
