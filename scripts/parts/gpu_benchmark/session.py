"""One run: compares the tokens, builds the model, then measures everything in turn in each round."""

import argparse
import copy
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
import transformers
from transformers.utils import logging

from paligemma_engine.memory.release import release_memory
from parts.gpu_benchmark.architecture import PALIGEMMA2_3B_448, TINY, Architecture, make_model, make_processor
from parts.gpu_benchmark.ceilings import ModelCost, measure_copy_bytes_per_s, measure_matrix_flops_per_s
from parts.gpu_benchmark.contenders import Generate, Load, ServedModel
from parts.gpu_benchmark.device_clock import DeviceClock
from parts.gpu_benchmark.exactness import Exactness, check_tokens
from parts.gpu_benchmark.report import Measured, Setting, format_report, make_report
from parts.gpu_benchmark.work import NEW_TOKENS, Work

BATCH_SIZE: Final = 8
CONCURRENT: Final = (1, 8, 32, 64)
SAME_PICTURE_CONCURRENT: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The amount of work.

    Attributes:
        architecture: the model that is measured.
        checked: the model on which tokens are compared.
        slots: the engine's slots; None: as the server's settings say.
        generated: requests for each of a and b in a round.
        waves: requests for the engine in a round, as a multiple of the concurrent requests.
        fewest: fewest requests for the engine in a round.
        load_limit_s: no contender begins a request later than this in its part of a round.
        matrix_size: rows and columns of the matrices for the ceiling of operations.
        copy_bytes: size of the copy for the ceiling of memory.
    """

    architecture: Architecture
    checked: Architecture
    slots: int | None
    generated: int
    waves: int
    fewest: int
    load_limit_s: float
    matrix_size: int
    copy_bytes: int


FULL: Final = Plan(
    architecture=PALIGEMMA2_3B_448,
    checked=PALIGEMMA2_3B_448.cut_down(vision_layers=2, layers=4),
    slots=None,
    generated=16,
    waves=4,
    fewest=16,
    load_limit_s=15.0,
    matrix_size=8192,
    copy_bytes=1 << 30,
)
SMALL: Final = Plan(
    architecture=TINY,
    checked=TINY,
    slots=8,
    generated=8,
    waves=1,
    fewest=4,
    load_limit_s=5.0,
    matrix_size=512,
    copy_bytes=1 << 25,
)


def run_session(arguments: argparse.Namespace) -> int:
    """Measures, prints and writes; returns the exit status: 1 if the engine's tokens differ from generate's."""
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {what}", file=sys.stderr, flush=True)

    logging.set_verbosity_error()
    plan = SMALL if arguments.small else FULL
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = Work()
    exactness = check_tokens(plan.checked, work, device=device)
    say(f"{exactness.equal} of {exactness.answers} answers equal generate's in float32")
    release_memory()
    bench = Bench(plan, device, work)
    say(f"{plan.architecture.name}: runner with {bench.served.runner.slots} slots started in {bench.start_s:.1f} s")
    setting = bench.setting(exactness)
    for round_number in itertools.count(1):
        round_started = time.monotonic()
        bench.measure_round(say)
        report = make_report(setting, bench.cost, bench.measured)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        say(f"round {round_number} done")
        now = time.monotonic()
        next_ends_s = now - started + (now - round_started)
        if round_number >= arguments.rounds or next_ends_s > arguments.rounds_end_s:
            break
    print(format_report(report))
    return 0 if exactness.all_equal else 1


@dataclass
class Bench:
    """The contenders, started and warm, and their measurements."""

    plan: Plan
    device: torch.device
    work: Work
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        self._clock = DeviceClock(self.device)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        model = make_model(self.plan.architecture, device=self.device, dtype=dtype)
        processor = make_processor(self.plan.architecture)
        self.dtype = dtype
        self.cost = ModelCost.of(model)
        self._generate = Generate(copy.deepcopy(model), processor)
        started = time.monotonic()
        self.served = ServedModel(model, processor, self._clock, slots=self.plan.slots)
        self.start_s = time.monotonic() - started
        self.measured.loads = [
            Load("a", 1),
            Load("b", BATCH_SIZE),
            *(Load("engine", concurrent) for concurrent in CONCURRENT),
            Load("same", SAME_PICTURE_CONCURRENT, same_picture=True),
        ]
        for load in self.measured.loads[:2]:  # warm up: the first run's one-time costs are not compared
            self._generate.answer(self.work.requests(load.concurrent))

    def setting(self, exactness: Exactness) -> Setting:
        """Describes the model, the engine's settings and the device."""
        on_gpu = self.device.type == "cuda"
        (prompt,) = self.served.plan(self.work.requests(1))
        return Setting(
            device=torch.cuda.get_device_name(self.device) if on_gpu else "CPU",
            torch=torch.__version__,
            transformers=transformers.__version__,
            architecture=self.plan.architecture.name,
            dtype=str(self.dtype).removeprefix("torch."),
            execution=str(self.served.runner.run_options),
            slots=self.served.runner.slots,
            prompt_tokens=len(prompt.input_ids),
            start_s=self.start_s,
            exactness=exactness,
        )

    def measure_round(self, say: Callable[[str], None]) -> None:
        """Everything once."""
        self._measure_ceilings()
        self._measure_steps()
        say(", ".join(f"{rows} rows in {seconds[-1] * 1e3:.2f} ms" for rows, seconds in self.measured.step_s.items()))
        for load in self.measured.loads:
            before, wall_before_s = load.requests, load.wall_s
            self._measure_load(load)
            rate = (load.requests - before) / (load.wall_s - wall_before_s)
            say(f"{load.name} at {load.concurrent}: {rate:.2f} requests/s")

    def _measure_ceilings(self) -> None:
        matrix = measure_matrix_flops_per_s(
            self._clock, device=self.device, dtype=self.dtype, size=self.plan.matrix_size
        )
        self.measured.matrix_flops_per_s.append(matrix)
        copied = measure_copy_bytes_per_s(self._clock, device=self.device, size_bytes=self.plan.copy_bytes)
        self.measured.copy_bytes_per_s.append(copied)

    def _measure_steps(self) -> None:
        """Times prefills one by one; for each number of rows, times the decode steps of an answer, back to back."""
        runner, slots = self.served.runner, self.served.runner.slots
        for rows in runner.run_options.row_buckets(slots):
            for slot, prompt in enumerate(self.served.plan(self.work.requests(rows))):
                vision = runner.start_vision([prompt.image], running=slot)
                prefill = functools.partial(runner.prefill, {slot: prompt}, vision, running=slot)
                self.measured.prefill_s.append(self._clock.time(prefill))
            step = functools.partial(runner.decode, range(rows))
            self.measured.step_s.setdefault(rows, []).append(self._clock.time(step, repeats=NEW_TOKENS - 1))

    def _measure_load(self, load: Load) -> None:
        if load.name in ("a", "b"):
            requests = self.work.requests(self.plan.generated)
            self._generate.run(load, requests, limit_s=self.plan.load_limit_s)
        else:
            count = max(self.plan.fewest, self.plan.waves * load.concurrent)
            requests = self.work.requests(count, same_picture=load.same_picture)
            self.served.run(load, requests, limit_s=self.plan.load_limit_s)
