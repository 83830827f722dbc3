"""Puts three real Tritons behind one gateway through everything that happens to servers, while clients ask.

    python scripts/replicas_drill.py
    python scripts/replicas_drill.py restart rise

Starts the demo stack with REPLICAS=3. The load must spread; then, under load, a server is killed, a model's process is
killed, a whole replica hangs, an engine hangs, and all replicas are restarted one after another. No request may fail.
Last, the load rises until requests are refused: the autoscaler's metric must have crossed its target before. Prints a
line for each part; takes about six minutes.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psutil

from parts.benchmark.workload import Job, make_jobs
from parts.replicas.gauges import read_samples
from parts.replicas.load import Load
from parts.serve.processes import is_stub, served_model
from parts.serve.stack import HOST, Replica, Stack, running_stack

CLIENTS: Final = 16
SPREAD_S: Final = 15.0
SPREAD: Final = 0.2  # how far a replica may be from the mean
HANG_S: Final = 10.0
ENGINE_HANG_S: Final = 15.0
SETTLE_S: Final = 3.0
LEFT_OUT_S: Final = 15.0
BACK_S: Final = 90.0
POLL_S: Final = 0.1
LEVELS: Final = (8, 16, 32, 48, 64, 96)
LEVEL_S: Final = 6.0
PARTS: Final = ("spread", "kill-server", "kill-engine", "hang-replica", "hang-engine", "restart", "rise")
WORKING: Final = ("paligemma_pending_requests", "paligemma_active_slots")


class Drill:
    """A running stack and what was found wrong with it."""

    def __init__(self, stack: Stack, jobs: Sequence[Job]) -> None:
        self._stack, self._jobs = stack, jobs
        self.problems: list[str] = []

    def spread(self) -> None:
        """The load on all replicas."""
        before = self._gateway("picked_total")
        with self._under_load("load"):
            time.sleep(SPREAD_S)
        counts = [count - before[address] for address, count in self._gateway("picked_total").items()]
        mean = sum(counts) / len(counts)
        worst = max(abs(count - mean) / mean for count in counts)
        print(f"  spread: {', '.join(f'{count:.0f}' for count in counts)}; at most {worst:.0%} from the mean")
        self._require(worst <= SPREAD, f"the load is {worst:.0%} from even")

    def kill(self, what: str, find: Callable[[Replica], psutil.Process], replica: Replica) -> None:
        """kill -9 of a process of a replica: left out, healed by its supervisor, back."""
        with self._under_load(f"kill -9 of {what}"):
            killed_at = time.monotonic()
            find(replica).kill()
            self._wait_rotation(replica, LEFT_OUT_S, wanted=False)
            out_s = time.monotonic() - killed_at
            self._wait_rotation(replica, BACK_S, wanted=True)
            print(f"  left out after {out_s:.1f} s, back after {time.monotonic() - killed_at:.1f} s")
            time.sleep(SETTLE_S)

    def hang(self, what: str, find: Callable[[Replica], list[psutil.Process]], replica: Replica, hang_s: float) -> None:
        """SIGSTOP of processes of a replica for so long: left out meanwhile, back afterwards."""
        with self._under_load(f"SIGSTOP of {what} for {hang_s:.0f} s"):
            stopped_at = time.monotonic()
            processes = find(replica)
            try:
                for process in processes:
                    process.send_signal(signal.SIGSTOP)
                self._wait_rotation(replica, hang_s, wanted=False)
                print(f"  left out after {time.monotonic() - stopped_at:.1f} s")
                time.sleep(max(0.0, stopped_at + hang_s - time.monotonic()))
            finally:
                for process in processes:
                    process.send_signal(signal.SIGCONT)
            self._wait_rotation(replica, BACK_S, wanted=True)
            print(f"  back {time.monotonic() - stopped_at - hang_s:.1f} s after it went on")
            time.sleep(SETTLE_S)

    def restart_all(self) -> None:
        """SIGTERM of each supervisor in turn; the next one when the last is back."""
        with self._under_load("rolling restart"):
            for replica in self._stack.replicas:
                started = time.monotonic()
                replica.process.restart()
                ended_s = time.monotonic() - started
                self._wait_rotation(replica, BACK_S, wanted=True)
                print(f"  stopped in {ended_s:.1f} s, back after {time.monotonic() - started:.1f} s")

    def rise(self) -> None:
        """More and more clients until requests are refused."""
        print("rising load")
        target = sum(self._engines("paligemma_slots"))
        crossed: int | None = None
        for clients in LEVELS:
            most = 0.0
            with Load(self._stack.url, self._jobs, clients=clients) as load:
                ends_at = time.monotonic() + LEVEL_S
                while time.monotonic() < ends_at:
                    most = max(most, sum(sum(self._engines(name)) for name in WORKING))
                    time.sleep(POLL_S)
            refused = sum(count for said, count in load.said.items() if said != "200")
            print(f"  {clients:>3} clients: waiting and running {most:.0f} of {target:.0f}, {refused} refused")
            if crossed is None and most >= target:
                crossed = clients
            if refused:
                self._require(crossed is not None and crossed < clients, "refused before the metric crossed its target")
                return
        self._require(crossed is not None, "the metric never crossed its target")

    @contextmanager
    def _under_load(self, name: str) -> Iterator[None]:
        print(name, flush=True)
        with Load(self._stack.url, self._jobs, clients=CLIENTS) as load:
            time.sleep(SETTLE_S)
            yield
        failed = {said: count for said, count in load.said.items() if said != "200"}
        print(
            f"  {load.said['200']} answers, slowest {load.slowest_s:.1f} s, {sum(failed.values())} failed", flush=True
        )
        self._require(not failed, f"{name}: {failed}")

    def _wait_rotation(self, replica: Replica, timeout_s: float, *, wanted: bool) -> None:
        address = f"{HOST}:{replica.ports[1].number}"
        give_up_at = time.monotonic() + timeout_s
        while bool(self._gateway("in_rotation")[address]) is not wanted:
            if time.monotonic() > give_up_at:
                self._require(False, f"{address} was not {'back' if wanted else 'left out'} within {timeout_s:.0f} s")
                return
            time.sleep(POLL_S)

    def _gateway(self, name: str) -> dict[str, float]:
        return read_samples(f"{self._stack.url}/metrics", f"gateway_replica_{name}")

    def _engines(self, name: str) -> list[float]:
        urls = (f"http://{HOST}:{replica.ports[2].number}/metrics" for replica in self._stack.replicas)
        return [sum(read_samples(url, name).values()) for url in urls]

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)


def main() -> int:
    """Returns 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is named")
    names = parser.parse_args().parts or PARTS
    if unknown := sorted(set(names) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}")
    # Few slots, so that the gateway's limit on concurrent requests comes later, as docs/capacity.md advises.
    with running_stack({**os.environ, "REPLICAS": "3", "MAX_SLOTS": "16"}, lambda *_: None) as stack:
        first, second, third = stack.replicas
        drill = Drill(stack, make_jobs(48))
        parts: dict[str, Callable[[], None]] = {
            "spread": drill.spread,
            "kill-server": lambda: drill.kill("a server", server_of, second),
            "kill-engine": lambda: drill.kill("the process of paligemma", engine_of, third),
            "hang-replica": lambda: drill.hang("a replica", processes_of, first, HANG_S),
            "hang-engine": lambda: drill.hang("an engine", lambda each: [engine_of(each)], second, ENGINE_HANG_S),
            "restart": drill.restart_all,
            "rise": drill.rise,
        }
        for name in PARTS:
            if name in names:
                parts[name]()
    for problem in drill.problems:
        print(f"WRONG  {problem}")
    return 1 if drill.problems else 0


def processes_of(replica: Replica) -> list[psutil.Process]:
    """The server and its stubs; the supervisor goes on."""
    children = psutil.Process(replica.process.pid).children(recursive=True)
    return [child for child in children if child.name() == "tritonserver" or is_stub(child)]


def server_of(replica: Replica) -> psutil.Process:
    """The server's process."""
    return next(process for process in processes_of(replica) if process.name() == "tritonserver")


def engine_of(replica: Replica) -> psutil.Process:
    """The stub that runs the engine."""
    return next(stub for stub in processes_of(replica) if served_model(stub.cmdline()) == "paligemma")


if __name__ == "__main__":
    sys.exit(main())
