"""Several checkpoints by turns: right answers from each, room for few, and nobody waits for another's load."""

import io
import os
import queue
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from checkpoints import DEMO_MODEL_ID, Transformers
from PIL import Image
from pools import NAMES, NEW_TOKENS, PROMPT, Pool, make_folders, pool_of, text_of
from stack import wait_until

from paligemma_engine import Answer, Engine
from paligemma_engine.answers.detokenizer import token_texts
from paligemma_engine.errors import Cancelled, Loading, ModelFailed, ModelNotAllowed, ModelNotFound, Stopping
from paligemma_engine.memory.release import release_memory
from paligemma_engine.scheduling.heartbeat import STOPPING_FILE

WAIT_S = 30.0


@pytest.fixture(scope="module")
def folders(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("models"), models_dir / DEMO_MODEL_ID)


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


@pytest.fixture
def pool(folders: Path) -> Iterator[Pool]:
    with pool_of(folders) as pool:
        yield pool


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
    assert [model() is not None for model in pool.loader.models] == [False] * 29 + [True]


def test_what_is_loaded_stays_loaded(pool: Pool, sample_image: bytes) -> None:
    for _ in range(3):
        pool.ask(sample_image, "one")
        pool.ask(sample_image, "zero")
    assert pool.loads == ["one"]
    assert pool.gauges("paligemma_models_loaded") == {"one": 1}
    assert pool.gauges("paligemma_models_loading") == {}
    assert pool.gauges("paligemma_slots") == {"": 4}


def test_the_least_recently_used_goes(folders: Path, sample_image: bytes) -> None:
    with pool_of(folders, max_extra_models=2) as pool:
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
    with pool_of(folders, max_extra_models=2) as pool:
        pool.ask(sample_image, "one")
        pool.loader.may_load.clear()
        waiting = pool.submit(sample_image, "two")
        for model_id in ("one", None) * 5:
            assert text_of(pool.ask(sample_image, model_id)) == expected[model_id]
        assert pool.gauges("paligemma_models_loading") == {"two": 1}
        assert waiting.outcomes == []
        pool.loader.may_load.set()
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
    with pool_of(folders, max_pending=3) as pool:
        pool.loader.may_load.clear()
        waiting = [pool.submit(sample_image, name) for name in ("one", "two", "one")]
        assert isinstance(pool.ask(sample_image, "one"), Loading)
        assert isinstance(pool.ask(sample_image), Answer)
        pool.loader.may_load.set()
        assert all(isinstance(each.wait(), Answer) for each in waiting)


def test_waiting_is_bounded_in_time_and_can_be_given_up(pool: Pool, sample_image: bytes) -> None:
    pool.loader.may_load.clear()
    late = pool.submit(sample_image, "one", timeout_s=0.1)
    unwanted = pool.submit(sample_image, "two")
    assert unwanted.ticket is not None
    pool.pool.cancel(unwanted.ticket)
    assert isinstance(late.wait(), Loading)
    assert isinstance(unwanted.wait(), Cancelled)
    pool.loader.may_load.set()
    assert isinstance(pool.ask(sample_image, "one"), Answer)
    assert pool.loads == ["one"]


def test_what_a_failed_load_had_loaded_is_released(
    pool: Pool, sample_image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing may refer to it any more when memory is released: else a GPU keeps it."""
    loaded: list[weakref.ref[Any]] = []
    alive_at_release: queue.SimpleQueue[bool] = queue.SimpleQueue()

    class Weights:
        pass

    def load(*_: Any) -> Engine:
        weights = Weights()
        loaded.append(weakref.ref(weights))
        try:
            raise MemoryError
        except MemoryError as error:
            raise ModelFailed("it does not fit") from error

    monkeypatch.setattr(pool.loader, "load", load)
    monkeypatch.setattr(
        "paligemma_engine.pool.load_queue.release_memory", lambda: alive_at_release.put(loaded[0]() is not None)
    )
    assert isinstance(pool.ask(sample_image, "one"), ModelFailed)
    assert alive_at_release.get(timeout=30) is False


def test_a_model_that_cannot_be_had_evicts_no_other(pool: Pool, sample_image: bytes) -> None:
    pool.ask(sample_image, "one")
    assert isinstance(pool.ask(sample_image, "bert"), ModelFailed)
    assert isinstance(pool.ask(sample_image, "one"), Answer)
    assert pool.loads == ["one"]
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
    with pool_of(folders, allowed_model_ids=("no*",), max_extra_models=1) as pool:
        assert isinstance(pool.ask(sample_image, "nowhere"), ModelNotFound)
        assert isinstance(pool.ask(sample_image, "google/paligemma2-3b-mix-448"), ModelNotAllowed)
    with pool_of(folders, max_extra_models=0) as pool:
        assert isinstance(pool.ask(sample_image, "one"), ModelNotAllowed)


def test_closing_answers_those_who_wait_for_a_load(folders: Path, sample_image: bytes) -> None:
    with pool_of(folders) as pool:
        pool.ask(sample_image, "one")
        pool.loader.may_load.clear()
        waiting = pool.submit(sample_image, "two")
        assert [pool.loader.started.get(timeout=30) for _ in range(2)] == ["one", "two"]
        pool.pool.close(drain_timeout_s=1)
        assert isinstance(waiting.wait(), Stopping)
        pool.loader.may_load.set()
        assert [pool.loader.ended.get(timeout=30) for _ in range(2)] == ["one", "two"]
        assert len(pool.loader.models) == 1  # nobody is left to load it for


def test_a_server_that_is_to_stop_loads_nothing_more(folders: Path, sample_image: bytes, tmp_path: Path) -> None:
    with pool_of(folders, heartbeat_dir=tmp_path) as pool:
        (tmp_path / STOPPING_FILE).touch()
        wait_until(lambda: isinstance(pool.ask(sample_image), Stopping), WAIT_S, "refused by the default model")
        assert isinstance(pool.ask(sample_image, "one"), Stopping)
        assert pool.loads == []
        (tmp_path / STOPPING_FILE).unlink()


def test_each_engine_beats_and_one_that_goes_takes_its_file_away(
    folders: Path, sample_image: bytes, tmp_path: Path
) -> None:
    with pool_of(folders, heartbeat_dir=tmp_path) as pool:
        pool.ask(sample_image, "one")
        assert len(list(tmp_path.iterdir())) == 2
        pool.ask(sample_image, "two")
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []
