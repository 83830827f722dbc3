"""The contenders: transformers' `generate`, and the engine."""

import contextlib
import dataclasses
import io
import os
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from paligemma_engine import Answer, Engine, EngineConfig, EngineMetrics, Outcome, Request, Ticket
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.checkpoints.loading import to_checkpoint
from paligemma_engine.preparation.planner import Planner
from paligemma_engine.requests.prepared import PreparedPrompt
from paligemma_engine.startup import start_runner
from parts.gpu_benchmark.device_clock import DeviceClock, WatchedRunner
from parts.gpu_benchmark.work import ANSWER_TIMEOUT_S, NEW_TOKENS


@dataclass(slots=True)
class Load:
    """One contender's measurements over all rounds.

    Attributes:
        name: the contender's name.
        concurrent: requests at once.
        same_picture: whether all requests of a round have the same picture.
        requests: number of answered requests.
        wall_s: time that they took together.
        latencies_s: latency of each request.
        idle_s: time that the device had nothing to do between prefills and decode steps; gaps between the kernels
            within one of them are not included. Stays 0 for generate.
        watched_s: time from the first prefill or decode step to the last.
    """

    name: str
    concurrent: int
    same_picture: bool = False
    requests: int = 0
    wall_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    idle_s: float = 0.0
    watched_s: float = 0.0

    def add(self, latencies_s: Sequence[float], wall_s: float) -> None:
        """Adds one round."""
        self.requests += len(latencies_s)
        self.wall_s += wall_s
        self.latencies_s += latencies_s


class Generate:
    """Transformers' `generate` with its own model and processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor

    def run(self, load: Load, requests: Sequence[Request], *, limit_s: float) -> None:
        """Answers requests in batches of `load.concurrent`; begins no batch after the limit."""
        latencies_s: list[float] = []
        started = time.perf_counter()
        for start in range(0, len(requests), load.concurrent):
            batch_started = time.perf_counter()
            if batch_started - started > limit_s:
                break
            batch = requests[start : start + load.concurrent]
            self.answer(batch)
            latencies_s += [time.perf_counter() - batch_started] * len(batch)
        load.add(latencies_s, time.perf_counter() - started)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[list[int]]:
        """Returns the token ids of the answers to a left-padded batch."""
        images = [Image.open(io.BytesIO(request.image)).convert("RGB") for request in requests]
        texts = [f"<image>{request.prompt}" for request in requests]
        inputs = self._processor(images=images, text=texts, return_tensors="pt", padding=True)
        inputs.pop("labels", None)
        inputs = inputs.to(self._model.device, self._model.dtype)
        output = self._model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        answers: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
        self._processor.batch_decode(answers, skip_special_tokens=True)
        return answers


class ServedModel:
    """A model served by the engine; an engine is started for each load, so the runner is free in between."""

    def __init__(self, model: Any, processor: Any, clock: DeviceClock, *, slots: int | None) -> None:
        """Replaces the model's attention by the engine's. `slots` None: as the server's settings say."""
        settings = EngineConfig.from_env(os.environ, device=str(model.device))
        self._config = dataclasses.replace(
            settings,
            model_id="random",
            dtype=str(model.dtype).removeprefix("torch."),
            max_slots=slots or settings.max_slots,
            max_new_tokens=NEW_TOKENS,
            grammar=False,
            cuda_graphs="off" if settings.cuda_graphs == "off" else "on",  # not `auto`: the report names what ran
        )
        self._clock = clock
        self._checkpoint: Checkpoint = to_checkpoint(self._config.model_id, model, processor)
        self.runner = start_runner(self._config, self._checkpoint, EngineMetrics())

    def run(self, load: Load, requests: Sequence[Request], *, limit_s: float) -> None:
        """Answers requests, `load.concurrent` at once; begins no request after the limit."""
        runner = WatchedRunner(self.runner, self._clock)
        latencies_s: list[float] = []
        with self._engine(runner) as engine:
            started = time.perf_counter()
            remaining = iter(requests)

            def client() -> None:
                for request in remaining:
                    asked = time.perf_counter()
                    if asked - started > limit_s:
                        return
                    _ask(engine, request)
                    latencies_s.append(time.perf_counter() - asked)

            with ThreadPoolExecutor(load.concurrent) as pool:
                clients = [pool.submit(client) for _ in range(load.concurrent)]
            for each in clients:
                each.result()
            load.add(latencies_s, time.perf_counter() - started)
        idle_s, watched_s = runner.idle_and_total_s()
        load.idle_s += idle_s
        load.watched_s += watched_s

    def answer(self, requests: Sequence[Request]) -> list[list[str]]:
        """Asks all requests at once; returns the tokens of each answer."""
        with self._engine(self.runner) as engine, ThreadPoolExecutor(len(requests)) as pool:
            answers = pool.map(lambda request: _ask(engine, request), requests)
            return [[token.text for token in answer.targets[0].tokens] for answer in answers]

    def plan(self, requests: Sequence[Request]) -> Iterator[PreparedPrompt]:
        """Yields the prefill's input for each request."""
        planner = Planner(self._config, self._checkpoint)
        for request in requests:
            ticket = Ticket.open(request, lambda _: None)
            planner.plan(ticket)
            yield ticket.sequences[0].prompt

    @contextlib.contextmanager
    def _engine(self, runner: Any) -> Iterator[Engine]:
        engine = Engine(self._config, self._checkpoint, runner, EngineMetrics(), on_fatal=lambda: None)
        try:
            yield engine
        finally:
            engine.close(drain_timeout_s=0.0)


def _ask(engine: Engine, request: Request) -> Answer:
    """Waits for the answer, which must have NEW_TOKENS tokens.

    Raises:
        EngineError: the engine failed.
        RuntimeError: the answer has another length.
    """
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    engine.submit(request, outcomes.put)
    outcome = outcomes.get(timeout=2 * ANSWER_TIMEOUT_S)
    if not isinstance(outcome, Answer):
        raise outcome
    if [len(target.tokens) for target in outcome.targets] != [NEW_TOKENS]:
        raise RuntimeError(f"an answer of {NEW_TOKENS} tokens was expected, not {outcome.targets}")
    return outcome
