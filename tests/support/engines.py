"""Engines for tests: the demo checkpoint loaded once, real or faulty runners, and a way to wait for outcomes."""

import functools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from checkpoints import DEMO_MODEL_ID

from paligemma_engine import Answer, Engine, EngineConfig, EngineMetrics, Outcome, Request, Ticket
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.checkpoints.files import CheckpointFiles
from paligemma_engine.checkpoints.hub import find_checkpoint
from paligemma_engine.checkpoints.loading import load_files
from paligemma_engine.device.run_options import RunOptions
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.memory.slot_plan import plan_slots
from paligemma_engine.metrics import MetricKind
from paligemma_engine.model.transfers import RunningStep
from paligemma_engine.requests.prepared import PreparedImage, PreparedPrompt
from paligemma_engine.scheduling.protocol import StartedVision
from paligemma_engine.startup import start_engine

ANSWER_TIMEOUT_S = 60.0


def load_checkpoint(config: EngineConfig) -> Checkpoint:
    """From wherever it is found, as a start does, without an engine around it."""
    return load_files(config, CheckpointFiles(find_checkpoint(config)))


@functools.cache
def demo_checkpoint(models_dir: Path) -> Checkpoint:
    return load_checkpoint(EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir))


class FaultyRunner:
    """A real runner that fails where a test says so, and can be held before its next step."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.slots, self.eos_ids, self.steps_ahead = runner.slots, runner.eos_ids, runner.steps_ahead
        self.prefill_rows = runner.prefill_rows
        self.fail_prefill_of: str | None = None
        self.fail_decode = False
        self.not_finite = False
        self.is_held = threading.Event()
        self.may_run = threading.Event()
        self.may_run.set()
        self.steps = 0

    @property
    def looks_ahead(self) -> bool:
        return self._runner.looks_ahead

    def start_vision(self, images: Sequence[PreparedImage], *, running: int) -> StartedVision:
        return self._runner.start_vision(images, running=running)

    def prefill(self, prompts: Mapping[int, PreparedPrompt], vision: StartedVision, *, running: int) -> RunningStep:
        self._wait()
        if any(prompt.asked.target == self.fail_prefill_of for prompt in prompts.values()):
            raise RuntimeError("poisoned")
        return self._runner.prefill(prompts, vision, running=running)

    def decode(self, slots: Collection[int]) -> RunningStep:
        self._wait()
        if self.fail_decode:
            raise RuntimeError("the device is lost")
        self.steps += 1
        if self.not_finite:
            with torch.inference_mode():
                for layer in (*self._runner._cache.keys, *self._runner._cache.values):
                    layer.fill_(torch.nan)
        return self._runner.decode(slots)

    def _wait(self) -> None:
        if not self.may_run.is_set():
            self.is_held.set()
            self.may_run.wait(ANSWER_TIMEOUT_S)


class Pending:
    """An outcome that is still to come, and how often it came."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.ticket: Ticket | None = None
        self._answered = threading.Event()

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._answered.set()

    def wait(self) -> Any:
        assert self._answered.wait(ANSWER_TIMEOUT_S), "no answer"
        return self.outcomes[0]


def ask_once(config: EngineConfig, image: bytes, prompt: str) -> Answer:
    """The answer of an engine that is started for one request, checkpoint and all."""
    engine = start_engine(config, metrics=EngineMetrics(), on_fatal=lambda: None)
    pending = Pending()
    engine.submit(Request(image=image, prompt=prompt), pending)
    answer = pending.wait()
    engine.close(drain_timeout_s=5)
    assert isinstance(answer, Answer)
    return answer


class Bench:
    """An engine with everything a test wants to reach."""

    def __init__(
        self,
        models_dir: Path,
        *,
        on_fatal: Callable[[], None] | None = None,
        run_options: RunOptions | None = None,
        **settings: Any,
    ) -> None:
        self.checkpoint = demo_checkpoint(models_dir)
        self.config = EngineConfig(**{"model_id": DEMO_MODEL_ID, "models_dir": models_dir, "max_slots": 4, **settings})
        self.metrics = EngineMetrics()
        runner = ModelRunner(
            self.checkpoint,
            slots=plan_slots(self.config, self.checkpoint),
            max_new_tokens=self.config.max_new_tokens,
            grammar=self.config.grammar,
            feature_cache_bytes=self.config.feature_cache_bytes,
            metrics=self.metrics,
            run_options=run_options,
        )
        self.runner = FaultyRunner(runner)
        self._totals: dict[str, float] = {}
        self.fatal = threading.Event()
        self.engine = Engine(
            self.config, self.checkpoint, self.runner, self.metrics, on_fatal=on_fatal or self.fatal.set
        )

    def submit(self, image: bytes, prompt: str, **arguments: Any) -> Pending:
        pending = Pending()
        pending.ticket = self.engine.submit(Request(image=image, prompt=prompt, **arguments), pending)
        return pending

    def ask(self, image: bytes, prompt: str, **arguments: Any) -> Any:
        return self.submit(image, prompt, **arguments).wait()

    def totals_so_far(self) -> dict[str, float]:
        """Counters and numbers of observations added up, gauges at their newest."""
        for sample in self.metrics.drain():
            name = ":".join([sample.family.name, *sample.labels.values()])
            amount = 1.0 if sample.family.kind is MetricKind.HISTOGRAM else sample.value
            earlier = 0.0 if sample.family.kind is MetricKind.GAUGE else self._totals.get(name, 0.0)
            self._totals[name] = earlier + amount
        return self._totals
