"""Loads and evictions that go wrong or must not happen: nobody else pays for them."""

import re
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from checkpoints import DEMO_MODEL_ID
from engines import Pending
from hub_server import HubServer, Repository, hub_environment
from pools import NAMES, Panic, Pool, make_folders, pool_of

from paligemma_engine import Answer
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.errors import Cancelled, EngineError, HubFailed, Loading, ModelFailed, Stopping
from paligemma_engine.memory.fit import Memory
from paligemma_engine.model.transfers import RunningStep
from paligemma_engine.pool.recent_failures import FIRST_PAUSE_S, LONGEST_PAUSE_S, MOST_REMEMBERED, RecentFailures


@pytest.fixture(scope="module")
def folders(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("models"), models_dir / DEMO_MODEL_ID)


@pytest.fixture
def pool(folders: Path) -> Iterator[Pool]:
    with pool_of(folders) as pool:
        yield pool


def test_a_load_that_nobody_waits_for_any_more_evicts_nobody(pool: Pool, sample_image: bytes) -> None:
    pool.ask(sample_image, "one")
    pool.loader.may_load.clear()
    assert isinstance(pool.ask(sample_image, "two", timeout_s=0.05), Loading)
    pool.loader.may_load.set()
    assert [pool.loader.ended.get(timeout=30) for _ in range(2)] == ["one", "two"]
    assert isinstance(pool.ask(sample_image, "one"), Answer)
    assert pool.loads == ["one", "two"]
    assert isinstance(pool.ask(sample_image, "two"), Answer)  # it did not fail


def test_a_failure_is_not_repeated_for_every_request(pool: Pool, sample_image: bytes) -> None:
    said = [str(pool.ask(sample_image, "bert")) for _ in range(3)]
    assert pool.loader.looked_for == ["bert"]
    assert all(re.search(r"; the server tries it again in \d+ s at the earliest$", text) for text in said)


def test_what_a_load_raises_never_ends_its_thread(
    pool: Pool, sample_image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pool.loader.failure = Panic("index out of bounds")
    refused = pool.ask(sample_image, "one")
    assert isinstance(refused, ModelFailed)
    assert "one cannot be loaded (Panic); the log has the cause" in str(refused)
    assert "index out of bounds" in caplog.text
    pool.loader.failure = None
    assert isinstance(pool.ask(sample_image, "two"), Answer)


def test_memory_that_cannot_be_handed_back_never_ends_a_thread(
    pool: Pool, sample_image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a device that is lost: the loader died, and who named another model waited for ever."""

    def fail() -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr("paligemma_engine.pool.load_queue.release_memory", fail)
    assert isinstance(pool.ask(sample_image, "bert"), ModelFailed)
    assert isinstance(pool.ask(sample_image, "two"), Answer)


def test_one_model_has_one_name(folders: Path, sample_image: bytes) -> None:
    settings = {"allowed_model_ids": ("org/*",), "model_id": "org/zero@main", "max_extra_models": 2}
    with pool_of(folders, **settings) as pool:
        for model_id in ("org/zero", "org/zero@main", None, "org/one", "org/one@main"):
            assert isinstance(pool.ask(sample_image, model_id), Answer), model_id
        assert pool.loads == ["org/one"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, folders: Path, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        hub_environment(monkeypatch, server.url, tmp_path)
        server.repositories["hub/made"] = Repository.of(folders / "three")
        yield server


def test_a_download_holds_up_no_load_of_what_is_here(
    hub: HubServer, folders: Path, tmp_path: Path, sample_image: bytes
) -> None:
    for name in NAMES:
        (tmp_path / name).symlink_to(folders / name)
    held = hub.repositories["hub/made"]
    held.may_send.clear()
    with pool_of(tmp_path, allowed_model_ids=("hub/*",)) as pool:
        waiting = pool.submit(sample_image, "hub/made")
        assert held.sending.wait(30)
        assert isinstance(pool.ask(sample_image, "one"), Answer)
        assert pool.gauges("paligemma_models_loading") == {"hub/made": 1}
        held.may_send.set()
        assert isinstance(waiting.wait(), Answer)
        assert pool.loads == ["one", "hub/made"]


def test_what_cannot_fit_is_neither_downloaded_nor_evicts_anybody(
    hub: HubServer, folders: Path, tmp_path: Path, sample_image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        (tmp_path / name).symlink_to(folders / name)
    with pool_of(tmp_path, allowed_model_ids=("hub/*",)) as pool:
        pool.ask(sample_image, "one")
        monkeypatch.setattr(pool.loader, "_most", Memory(0, 1_000_000))
        monkeypatch.setattr("paligemma_engine.memory.fit.free_host_bytes", lambda: 1_000_000)
        for model_id in ("hub/made", "two"):
            assert f"{model_id} needs " in str(pool.ask(sample_image, model_id))
        assert hub.requests.total() == 0
        assert set(pool.gauges("paligemma_models_loaded")) == {"one"}


def test_as_many_go_as_it_takes(folders: Path, sample_image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for three by number, for one by memory."""
    with pool_of(folders, max_extra_models=3) as pool:
        pool.ask(sample_image, "one")
        pool.ask(sample_image, "two")
        free_bytes = "paligemma_engine.memory.fit.free_host_bytes"
        monkeypatch.setattr(
            free_bytes,
            lambda: 0 if pool.gauges("paligemma_models_loaded") else 1 << 40,
        )
        assert isinstance(pool.ask(sample_image, "three"), Answer)
        assert set(pool.gauges("paligemma_models_loaded")) == {"three"}


class SlowRunner:
    """Makes every decode step of this process wait a little, until it may run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_run, self.decoding = threading.Event(), threading.Event()
        original = ModelRunner.decode

        def decode(runner: ModelRunner, slots: Collection[int]) -> RunningStep:
            self.decoding.set()
            self.may_run.wait(0.1)
            return original(runner, slots)

        monkeypatch.setattr(ModelRunner, "decode", decode)


@pytest.fixture
def evicting(
    folders: Path, sample_image: bytes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Pool, Pending, Pending]]:
    """A pool, a long request of a model that is being evicted, and the request that wants its place."""
    with pool_of(folders, max_new_tokens=2000) as pool:
        pool.ask(sample_image, "one", max_new_tokens=1)
        slow = SlowRunner(monkeypatch)
        running = pool.submit(sample_image, "one")
        assert slow.decoding.wait(30)
        unloading = threading.Event()
        monkeypatch.setattr("paligemma_engine.pool.model_pool._log.info", lambda *_: unloading.set())
        wanting = pool.submit(sample_image, "two", max_new_tokens=1)
        assert unloading.wait(30)
        yield pool, running, wanting
        slow.may_run.set()


def test_a_model_that_is_being_evicted_is_closed_with_the_others(evicting: tuple[Pool, Pending, Pending]) -> None:
    pool, running, wanting = evicting
    pool.pool.close(drain_timeout_s=0.0)
    assert isinstance(running.outcomes[0], Stopping)
    assert isinstance(wanting.wait(), Stopping)


def test_a_request_of_a_model_that_is_being_evicted_can_be_cancelled(evicting: tuple[Pool, Pending, Pending]) -> None:
    pool, running, wanting = evicting
    assert running.ticket is not None
    pool.pool.cancel(running.ticket)
    assert isinstance(running.wait(), Cancelled)
    assert isinstance(wanting.wait(), Answer)


def test_the_pause_after_failures_in_a_row_doubles() -> None:
    now = 0.0
    failures = RecentFailures(clock=lambda: now)
    pauses = []
    for _ in range(6):
        failures.add("one", HubFailed("no network"))
        assert "no network; the server tries it again in" in str(failures.error_of("one"))
        started = now
        while failures.error_of("one"):
            now += FIRST_PAUSE_S
        pauses.append(now - started)
    assert pauses == [60, 120, 240, 480, 960, LONGEST_PAUSE_S]
    failures.remove("one")
    failures.add("one", HubFailed("no network"))
    now += FIRST_PAUSE_S
    assert failures.error_of("one") is None


def test_failures_of_invented_ids_are_bounded() -> None:
    failures = RecentFailures()
    for number in range(MOST_REMEMBERED + 1):
        failures.add(str(number), EngineError("gone"))
    assert failures.error_of("0") is None
    assert failures.error_of("1") is not None
