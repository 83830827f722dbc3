"""A server with two engines: they share the load; one that fails takes nobody's answer with it."""

import asyncio
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tritonclient.grpc.aio as grpcclient
from stack import REPOSITORY, START_TIMEOUT_S, ChildProcess, Ports, published_metrics, serve

from parts.soak.caller import Caller, Tally
from parts.soak.kinds import OK, Call, good_calls

REQUESTS = 288  # chance makes a tenth of a difference among a hundred
CLIENTS = 8

# Makes every decode step fail from the moment that a file exists.
FAULT = """

import pathlib
from paligemma_engine.device.runner import ModelRunner

_decode = ModelRunner.decode


def _fail_on_demand(self, slots):
    if pathlib.Path({file!r}).exists():
        raise RuntimeError("simulated")
    return _decode(self, slots)


ModelRunner.decode = _fail_on_demand
"""


@dataclass(frozen=True)
class TwoEngines:
    server: ChildProcess
    ports: Ports
    fault: Path

    def ask(self, calls: list[Call], clients: int) -> Tally:
        async def connected() -> Tally:
            async with grpcclient.InferenceServerClient(f"127.0.0.1:{self.ports.grpc}") as client:
                return await Caller(client).ask_all(calls, clients=clients)

        return asyncio.run(connected())

    def answered(self) -> dict[str, float]:
        """Requests by engine."""
        text = published_metrics(self.ports)
        found = re.findall(r'^paligemma_requests_total{instance="(\w+)",outcome="ok"} (\S+)$', text, re.MULTILINE)
        return {instance: float(count) for instance, count in found}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoEngines]:
    folder = tmp_path_factory.mktemp("two-engines")
    repository, fault = folder / "model_repository", folder / "fault"
    shutil.copytree(REPOSITORY / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__"))
    config = repository / "paligemma" / "config.pbtxt"
    one = config.read_text()
    two = one.replace("kind: KIND_AUTO count: 1", "kind: KIND_CPU count: 2")
    assert two != one
    config.write_text(two)
    with (repository / "paligemma" / "1" / "model.py").open("a") as adapter:
        adapter.write(FAULT.format(file=str(fault)))
    ports = Ports.free()
    with serve(ports, "--restart", "--model-repository", str(repository)) as server:
        server.wait_for_line("^serve: ready", START_TIMEOUT_S)
        yield TwoEngines(server, ports, fault)


def test_they_share_the_load(engines: TwoEngines) -> None:
    calls = [call for call in good_calls() if call.kind == "one target"] * (REQUESTS // 16)
    before = engines.answered()  # the supervisor's first request
    assert engines.ask(calls, CLIENTS).wrong == []
    answered = {instance: count - before.get(instance, 0) for instance, count in engines.answered().items()}
    assert len(answered) == 2
    assert sum(answered.values()) == REQUESTS
    assert max(answered.values()) - min(answered.values()) <= 0.2 * REQUESTS / 2


def test_a_fatal_error_answers_everybody_and_the_server_comes_back(engines: TwoEngines) -> None:
    calls = [call for call in good_calls() if call.kind == "one target"]
    seen = len(engines.server.lines)
    tallies: list[Tally] = []
    asking = threading.Thread(target=lambda: tallies.append(engines.ask(calls, len(calls))))
    asking.start()
    time.sleep(0.1)
    engines.fault.touch()
    asking.join(60)
    engines.server.wait_for_line("^serve: the process of model paligemma died .* starting", 10, after=seen)
    engines.fault.unlink()
    (tally,) = tallies
    assert tally.count == len(calls)
    assert "internal" in {outcome for _, outcome in tally.outcomes}
    assert {outcome for _, outcome in tally.outcomes} <= {OK, "internal"}
    engines.server.wait_for_line("^serve: ready", START_TIMEOUT_S, after=seen)
    assert engines.ask(calls, CLIENTS).wrong == []
