"""How an engine ends, by a failure or on purpose: every request gets its one answer, and nothing hangs."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Bench
from PIL import Image

from paligemma_engine import Answer, Outcome, Request
from paligemma_engine.errors import Cancelled, DeadlineExceeded, InternalError, Stopping
from paligemma_engine.preparation import planner


class Panic(BaseException):
    pass


class Decoding:
    """Holds the decoding of images."""

    def __init__(self) -> None:
        self.started, self.may_go_on = threading.Event(), threading.Event()


@pytest.fixture
def is_decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoding]:
    held, decode = Decoding(), planner.decode_image

    def hold(encoded: bytes, limits: planner.ImageLimits) -> Image.Image:
        held.started.set()
        held.may_go_on.wait(60)
        return decode(encoded, limits)

    monkeypatch.setattr(planner, "decode_image", hold)
    yield held
    held.may_go_on.set()


@pytest.fixture
def own(models_dir: Path) -> Iterator[Bench]:
    bench = Bench(models_dir, max_slots=2, max_pending=3)
    yield bench
    bench.runner.may_run.set()
    bench.engine.close(drain_timeout_s=5)


def test_a_fatal_error_answers_everybody(own: Bench, sample_image: bytes) -> None:
    own.runner.may_run.clear()
    waiting = [own.submit(sample_image, "segment blue star") for _ in range(5)]
    own.runner.fail_decode = True
    own.runner.may_run.set()
    assert all(isinstance(pending.wait(), InternalError) for pending in waiting)
    assert own.fatal.wait(10)
    assert isinstance(own.ask(sample_image, "segment blue star"), InternalError)
    assert all(len(pending.outcomes) == 1 for pending in waiting)


def test_closing_lets_running_requests_end_and_refuses_new_ones(models_dir: Path, sample_image: bytes) -> None:
    bench = Bench(models_dir)
    running = [bench.submit(sample_image, "segment blue star") for _ in range(6)]
    bench.engine.close(drain_timeout_s=30)
    assert all(isinstance(pending.wait(), Answer) for pending in running)


def test_closing_does_not_wait_for_ever(models_dir: Path, sample_image: bytes) -> None:
    """Nor for a step that hangs; it is left behind, and its request is answered."""
    bench = Bench(models_dir)
    bench.runner.may_run.clear()
    stuck = bench.submit(sample_image, "segment blue star")
    assert bench.runner.is_held.wait(20)
    bench.engine.close(drain_timeout_s=0.0, stuck_timeout_s=0.0)
    assert isinstance(stuck.wait(), Stopping)
    bench.runner.may_run.set()


def test_a_second_close_shortens_the_first(models_dir: Path, sample_image: bytes) -> None:
    """An engine that is being evicted drains without a limit; when the server stops, it has the server's."""
    bench = Bench(models_dir)
    bench.runner.may_run.clear()
    stuck = bench.submit(sample_image, "segment blue star")
    assert bench.runner.is_held.wait(20)
    evicting = threading.Thread(target=bench.engine.close, args=(math.inf, 0.0))
    evicting.start()
    bench.engine.close(drain_timeout_s=0.0, stuck_timeout_s=0.0)
    evicting.join(20)
    assert not evicting.is_alive()
    assert isinstance(stuck.wait(), Stopping)
    assert len(stuck.outcomes) == 1
    bench.runner.may_run.set()


def test_closing_does_not_wait_for_an_image(models_dir: Path, sample_image: bytes, is_decoding: Decoding) -> None:
    """A picture that takes for ever to decode kept all others from their answers."""
    bench = Bench(models_dir, preparation_workers=1)
    pending = [bench.submit(sample_image, "segment blue star") for _ in range(3)]
    assert is_decoding.started.wait(20)
    bench.engine.close(drain_timeout_s=0.0)
    assert all(isinstance(each.wait(), Stopping) for each in pending)


def test_deadlines_and_cancellation_count_while_a_request_waits_for_preparation(
    own: Bench, sample_image: bytes, is_decoding: Decoding
) -> None:
    busy = [own.submit(sample_image, "segment blue star") for _ in range(own.config.preparation_workers)]
    assert is_decoding.started.wait(20)
    late, unwanted = own.submit(sample_image, "segment blue star", timeout_s=0.1), own.submit(sample_image, "a")
    assert unwanted.ticket is not None
    own.engine.cancel(unwanted.ticket)
    assert isinstance(late.wait(), DeadlineExceeded)
    assert isinstance(unwanted.wait(), Cancelled)
    is_decoding.may_go_on.set()
    assert all(isinstance(each.wait(), Answer) for each in busy)
    assert (len(late.outcomes), len(unwanted.outcomes)) == (1, 1)


@pytest.mark.parametrize("place", ["scheduling.engine.outcome_of", "preparation.planner.split_prompt"])
def test_a_panic_of_a_library_costs_one_request(
    own: Bench, sample_image: bytes, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Libraries in Rust raise what is no Exception; it ended the thread, and nobody was answered any more."""

    def panic(*_: object) -> None:
        raise Panic

    with monkeypatch.context() as patch:
        patch.setattr(f"paligemma_engine.{place}", panic)
        assert isinstance(own.ask(sample_image, "segment blue star"), InternalError)
    assert isinstance(own.ask(sample_image, "segment blue star"), Answer)


def test_a_request_that_meets_a_closed_engine_is_answered_once(models_dir: Path, sample_image: bytes) -> None:
    """It had been accepted when the pool that prepares it was shut down."""
    bench = Bench(models_dir)
    bench.engine._pool.shutdown()
    assert isinstance(bench.ask(sample_image, "segment blue star"), Stopping)
    bench.engine.close(drain_timeout_s=0.0)


def test_an_answer_that_cannot_be_sent_is_fatal(own: Bench, sample_image: bytes) -> None:
    """It was only logged, and its caller waited for ever on a server that looked well."""

    def broken(_: Outcome) -> None:
        raise RuntimeError("no shared memory is left")

    own.engine.submit(Request(image=sample_image, prompt="segment blue star"), broken)
    assert own.fatal.wait(20)
    assert isinstance(own.ask(sample_image, "segment blue star"), InternalError)


def test_a_sender_that_hangs_does_not_keep_a_broken_engine_alive(
    own: Bench, sample_image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paligemma_engine.scheduling.engine.FLUSH_TIMEOUT_S", 0.1)
    sending, may_go_on = threading.Event(), threading.Event()

    def hanging(_: Outcome) -> None:
        sending.set()
        may_go_on.wait(60)

    own.engine.submit(Request(image=b"", prompt="segment blue star"), hanging)
    assert sending.wait(20)
    own.runner.fail_decode = True
    own.submit(sample_image, "segment blue star")
    assert own.fatal.wait(20)
    may_go_on.set()
