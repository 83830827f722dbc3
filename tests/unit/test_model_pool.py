"""Several checkpoints by turns: right answers from each, room for few, and nobody waits for another's load."""

import io
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from checkpoints import DEMO_MODEL_ID, Transformers, make_random_checkpoint
from engines import Pending
from PIL import Image

from paligemma_engine import Answer, Engine, EngineConfig, EngineMetrics, Request
from paligemma_engine.detokenizer import token_texts
from paligemma_engine.errors import Cancelled, Loading, ModelFailed, ModelNotAllowed, ModelNotFound, Overloaded
from paligemma_engine.memory import release_memory
from paligemma_engine.model_pool import MakeRoom, ModelPool
from paligemma_engine.startup import start_engine

PROMPT = "caption en"
NEW_TOKENS = 8
NAMES = ["zero", "one", "two", "three"]
SETTINGS: dict[str, Any] = {"max_slots": 2, "max_new_tokens": NEW_TOKENS, "grammar": False, "model_id": "zero"}


@dataclass
class Pool:
    """A pool whose loads can be held, with a record of them."""

    config: EngineConfig
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    loads: list[str] = field(default_factory=list)
    may_load: threading.Event = field(default_factory=threading.Event)
    models: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_load.set()
        self.default = start_engine(self.config, metrics=self.metrics, on_fatal=lambda: None)
        self.pool = ModelPool(self.config, self.default, self.metrics, start=self._start, release_memory=release_memory)

    def _start(self, config: EngineConfig, make_room: MakeRoom) -> Engine:
        def make_room_when_allowed() -> None:
            assert self.may_load.wait(30)
            make_room()

        self.loads.append(config.model_id)
        engine = start_engine(config, make_room_when_allowed, metrics=self.metrics, on_fatal=lambda: None)
        self.models.append(weakref.ref(engine._checkpoint.model))
        return engine

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


@pytest.fixture(scope="module")
def folders(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(NAMES):
        make_random_checkpoint(made / name, models_dir / DEMO_MODEL_ID, seed=seed, generation=1 + seed % 2)
    (made / "bert").mkdir()
    (made / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return made


@pytest.fixture(scope="module")
def expected(folders: Path, sample_image: bytes) -> dict[str | None, list[str]]:
    image = Image.open(io.BytesIO(sample_image)).convert("RGB")
    texts: dict[str | None, list[str]] = {}
    for name in NAMES:
        reference = Transformers(folders / name)
        generated = reference.generate(image, PROMPT, NEW_TOKENS)
        texts[name] = token_texts(reference.processor.tokenizer, generated.token_ids)
    texts[None] = texts["zero"]
    assert len({tuple(text) for text in texts.values()}) == len(NAMES)
    return texts


def pool_of(folders: Path, **settings: Any) -> Iterator[Pool]:
    pool = Pool(EngineConfig(**{**SETTINGS, "models_dir": folders, **settings}))
    yield pool
    pool.may_load.set()
    pool.pool.close(drain_timeout_s=10)


@pytest.fixture
def pool(folders: Path) -> Iterator[Pool]:
    yield from pool_of(folders)


def text_of(answer: Any) -> list[str]:
    assert isinstance(answer, Answer), answer
    return [token.text for token in answer.targets[0].tokens]


def wait_until(condition: Any) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_by_turns_with_room_for_one_each_answers_for_itself_and_memory_stays(
    pool: Pool, sample_image: bytes, expected: dict[str | None, list[str]]
) -> None:
    """Resident memory after 30 switches within 10 % of that after 3."""
    process, resident = psutil.Process(os.getpid()), {}
    for switch in range(1, 31):
        name = NAMES[1 + switch % 3]
        for model_id in (name, None):
            assert text_of(pool.ask(sample_image, model_id)) == expected[model_id]
        if switch in (3, 30):
            release_memory()
            resident[switch] = process.memory_info().rss
    assert len(pool.loads) == 30
    assert resident[30] <= 1.1 * resident[3]
    assert [model() is not None for model in pool.models] == [False] * 29 + [True]


def test_what_is_loaded_stays_loaded(pool: Pool, sample_image: bytes) -> None:
    for _ in range(3):
        pool.ask(sample_image, "one")
        pool.ask(sample_image, "zero")
    assert pool.loads == ["one"]
    assert pool.gauges("paligemma_models_loaded") == {"one": 1}
    assert pool.gauges("paligemma_models_loading") == {}
    assert pool.gauges("paligemma_slots") == {"": 4}


def test_the_least_recently_used_goes(folders: Path, sample_image: bytes) -> None:
    for pool in pool_of(folders, max_extra_models=2):
        for name in ("one", "two", "one", "three", "one", "two"):
            pool.ask(sample_image, name)
        assert pool.loads == ["one", "two", "three", "two"]
        assert set(pool.gauges("paligemma_models_loaded")) == {"one", "two"}


def test_many_at_once_load_once(pool: Pool, sample_image: bytes, expected: dict[str | None, list[str]]) -> None:
    waiting = [pool.submit(sample_image, "one") for _ in range(8)]
    assert all(text_of(each.wait()) == expected["one"] for each in waiting)
    assert pool.loads == ["one"]


def test_nobody_waits_for_anothers_load(
    folders: Path, sample_image: bytes, expected: dict[str | None, list[str]]
) -> None:
    for pool in pool_of(folders, max_extra_models=2):
        pool.ask(sample_image, "one")
        pool.may_load.clear()
        waiting = pool.submit(sample_image, "two")
        for model_id in ("one", None) * 5:
            assert text_of(pool.ask(sample_image, model_id)) == expected[model_id]
        assert pool.gauges("paligemma_models_loading") == {"two": 1}
        assert waiting.outcomes == []
        pool.may_load.set()
        assert text_of(waiting.wait()) == expected["two"]


def test_running_requests_end_before_their_model_goes(
    pool: Pool, sample_image: bytes, expected: dict[str | None, list[str]]
) -> None:
    pool.ask(sample_image, "one")
    order = ["one", "two", "one", "three", "two", "one"] * 3
    waiting = [pool.submit(sample_image, name) for name in order]
    for name, each in zip(order, waiting, strict=True):
        assert text_of(each.wait()) == expected[name]


def test_waiting_is_bounded_in_number(folders: Path, sample_image: bytes) -> None:
    for pool in pool_of(folders, max_pending=3):
        pool.may_load.clear()
        waiting = [pool.submit(sample_image, name) for name in ("one", "two", "one")]
        assert isinstance(pool.ask(sample_image, "one"), Loading)
        assert isinstance(pool.ask(sample_image), Answer)
        pool.may_load.set()
        assert all(isinstance(each.wait(), Answer) for each in waiting)


def test_waiting_is_bounded_in_time_and_can_be_given_up(pool: Pool, sample_image: bytes) -> None:
    pool.may_load.clear()
    late = pool.submit(sample_image, "one", timeout_s=0.1)
    unwanted = pool.submit(sample_image, "two")
    assert unwanted.ticket is not None
    pool.pool.cancel(unwanted.ticket)
    assert isinstance(late.wait(), Loading)
    assert isinstance(unwanted.wait(), Cancelled)
    pool.may_load.set()
    assert isinstance(pool.ask(sample_image, "one"), Answer)
    assert pool.loads == ["one"]


def test_what_a_failed_load_had_loaded_is_released(pool: Pool, sample_image: bytes) -> None:
    """Nothing may refer to it any more when memory is released: else a GPU keeps it."""
    loaded: list[weakref.ref[Any]] = []
    alive_at_release: list[bool] = []

    class Weights:
        pass

    def start(config: EngineConfig, make_room: MakeRoom) -> Engine:
        weights = Weights()
        loaded.append(weakref.ref(weights))
        try:
            raise MemoryError
        except MemoryError as error:
            raise ModelFailed("it does not fit") from error

    def release() -> None:
        alive_at_release.append(loaded[0]() is not None)

    failing = ModelPool(pool.config, pool.default, pool.metrics, start=start, release_memory=release)
    pending = Pending()
    failing.submit(Request(image=sample_image, prompt=PROMPT, model_id="one"), pending)
    assert isinstance(pending.wait(), ModelFailed)
    wait_until(lambda: alive_at_release)
    assert alive_at_release == [False]


def test_a_model_that_cannot_be_had_evicts_no_other(pool: Pool, sample_image: bytes) -> None:
    pool.ask(sample_image, "one")
    assert isinstance(pool.ask(sample_image, "bert"), ModelFailed)
    assert isinstance(pool.ask(sample_image, "one"), Answer)
    assert pool.loads == ["one", "bert"]
    assert pool.gauges("paligemma_models_loading") == {}


def test_what_a_request_may_not_name(pool: Pool, sample_image: bytes) -> None:
    leading_out = [
        "../models/one",
        "/etc/passwd",
        "one/../two",
        "google/paligemma/../x",
        "a/b/c",
        "google/paligemma\0x",
    ]
    for model_id in [*leading_out, "other/model", "nowhere", "one@main", "huggingface"]:
        assert isinstance(pool.ask(sample_image, model_id), ModelNotAllowed), model_id
    assert pool.loads == []


def test_patterns_allow_ids_of_the_hub(folders: Path, sample_image: bytes) -> None:
    for pool in pool_of(folders, allowed_model_ids=("no*",), max_extra_models=1):
        assert isinstance(pool.ask(sample_image, "nowhere"), ModelNotFound)
        assert isinstance(pool.ask(sample_image, "google/paligemma2-3b-mix-448"), ModelNotAllowed)
    for pool in pool_of(folders, max_extra_models=0):
        assert isinstance(pool.ask(sample_image, "one"), ModelNotAllowed)


def test_closing_answers_those_who_wait_for_a_load(folders: Path, sample_image: bytes) -> None:
    pool = Pool(EngineConfig(**{**SETTINGS, "models_dir": folders}))
    pool.may_load.clear()
    waiting = pool.submit(sample_image, "one")
    wait_until(lambda: pool.loads)
    pool.pool.close(drain_timeout_s=1)
    assert isinstance(waiting.wait(), Overloaded)
    pool.may_load.set()
    pool.pool._loader.join(30)
    assert pool.models == []  # nobody is left to load it for


def test_each_engine_beats_and_one_that_goes_takes_its_file_away(
    folders: Path, sample_image: bytes, tmp_path: Path
) -> None:
    for pool in pool_of(folders, heartbeat_dir=tmp_path):
        pool.ask(sample_image, "one")
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        pool.ask(sample_image, "two")
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    assert list(tmp_path.iterdir()) == []
