"""Pools of models for tests: real loads, which can be held, of small random checkpoints."""

import contextlib
import json
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from checkpoints import make_random_checkpoint
from engines import Pending

from paligemma_engine import Answer, Engine, EngineConfig, EngineMetrics, Request
from paligemma_engine.checkpoints.files import CheckpointFiles
from paligemma_engine.pool.model_pool import MakeRoom, ModelPool
from paligemma_engine.startup import CheckpointLoader, start_engine

PROMPT = "caption en"
NEW_TOKENS = 8
NAMES = ["zero", "one", "two", "three"]
SETTINGS: dict[str, Any] = {"max_slots": 2, "max_new_tokens": NEW_TOKENS, "grammar": False, "model_id": "zero"}


class Panic(BaseException):
    """As what a panic in Rust becomes: no Exception."""


class RecordingLoader(CheckpointLoader):
    """Loads for real; loads can be held, and are recorded."""

    def __init__(self, metrics: EngineMetrics) -> None:
        super().__init__("cpu", metrics, on_fatal=lambda: None)
        self.looked_for: list[str] = []
        self.loads: list[str] = []
        self.models: list[Any] = []
        self.may_load = threading.Event()
        self.may_load.set()
        self.started: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.failure: BaseException | None = None

    def find_here(self, config: EngineConfig) -> CheckpointFiles | None:
        self.looked_for.append(config.model_id)
        return super().find_here(config)

    def load(self, config: EngineConfig, files: CheckpointFiles, make_room: MakeRoom) -> Engine:
        def make_room_when_allowed(fits: Callable[[], bool]) -> None:
            assert self.may_load.wait(30)
            make_room(fits)

        self.loads.append(config.model_id)
        self.started.put(config.model_id)
        try:
            if self.failure is not None:
                raise self.failure
            engine = super().load(config, files, make_room_when_allowed)
        finally:
            self.ended.put(config.model_id)
        self.models.append(weakref.ref(engine._checkpoint.model))
        return engine


class Pool:
    """A pool with everything a test wants to reach."""

    def __init__(self, **settings: Any) -> None:
        self.config = EngineConfig(**{**SETTINGS, **settings})
        self.metrics = EngineMetrics()
        default = start_engine(self.config, metrics=self.metrics, on_fatal=lambda: None)
        self.loader = RecordingLoader(self.metrics)
        self.pool = ModelPool(self.config, default, self.metrics, loader=self.loader)

    @property
    def loads(self) -> list[str]:
        return self.loader.loads

    def submit(self, image: bytes, model_id: str | None = None, **arguments: Any) -> Pending:
        pending = Pending()
        request = Request(image=image, prompt=PROMPT, model_id=model_id, **arguments)
        pending.ticket = self.pool.submit(request, pending)
        return pending

    def ask(self, image: bytes, model_id: str | None = None, **arguments: Any) -> Any:
        return self.submit(image, model_id, **arguments).wait()

    def gauges(self, name: str) -> dict[str, float]:
        return {
            dict(labels).get("model_id", ""): sum(shares.values())
            for (family, labels), shares in self.metrics._gauges.items()
            if family.name == name
        }

    def close(self) -> None:
        self.loader.may_load.set()
        self.pool.close(drain_timeout_s=10)


def make_folders(folder: Path, demo: Path) -> Path:
    """Checkpoints of both generations that answer differently, as names and as hub ids, and one of another kind."""
    (folder / "org").mkdir()
    for seed, name in enumerate(NAMES):
        make_random_checkpoint(folder / name, demo, seed=seed, generation=1 + seed % 2)
        (folder / "org" / name).symlink_to(folder / name)
    (folder / "org" / "zero@main").symlink_to(folder / "zero")
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


@contextlib.contextmanager
def pool_of(folders: Path, **settings: Any) -> Iterator[Pool]:
    pool = Pool(models_dir=folders, **settings)
    try:
        yield pool
    finally:
        pool.close()


def text_of(answer: Any) -> list[str]:
    assert isinstance(answer, Answer), answer
    return [token.text for token in answer.targets[0].tokens]
