"""The engine with the demo checkpoint: every request gets exactly one answer, of the right kind, whatever others do."""

import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Bench, Pending

from paligemma_engine import Answer, EngineError, Outcome
from paligemma_engine.errors import (
    Cancelled,
    DeadlineExceeded,
    ImageTooLarge,
    InternalError,
    InvalidArgument,
    InvalidImage,
    InvalidPrompt,
    ModelNotAllowed,
    Overloaded,
    Stopping,
)
from paligemma_engine.scheduling.heartbeat import FILE_PREFIX, STOPPING_FILE


@pytest.fixture(scope="module")
def shared(models_dir: Path) -> Iterator[Bench]:
    bench = Bench(models_dir)
    yield bench
    bench.engine.close(drain_timeout_s=5)


@pytest.fixture
def own(models_dir: Path, tmp_path: Path) -> Iterator[Bench]:
    """For tests that break it."""
    bench = Bench(models_dir, max_slots=2, max_pending=3, heartbeat_dir=tmp_path)
    yield bench
    bench.runner.may_run.set()
    bench.engine.close(drain_timeout_s=5)


def wait_until(condition: object) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_an_answer(shared: Bench, sample_image: bytes) -> None:
    answer = shared.ask(sample_image, "segment blue star")
    assert isinstance(answer, Answer)
    (target,) = answer.targets
    assert (target.target, target.finish_reason) == ("blue star", "eos")
    assert re.fullmatch(r"(<loc\d{4}>){4}(<seg\d{3}>){16}", target.text)
    assert "".join(token.text for token in target.tokens) == target.text
    assert len(target.tokens) == 4 + 16
    assert all(token.logprob <= 0 for token in target.tokens)
    assert answer.original_hw == (480, 640)
    assert (answer.input_image.shape, str(answer.input_image.dtype)) == ((224, 224, 3), "uint8")


def test_targets_keep_their_order_and_equal_single_answers(shared: Bench, sample_image: bytes) -> None:
    names = ["cyan ring", "red car", "blue star", "yellow heart", "green diamond"]
    together = shared.ask(sample_image, f"segment {' ; '.join(names)}")
    assert [target.target for target in together.targets] == names
    for target in together.targets:
        (alone,) = shared.ask(sample_image, f"segment {target.target}").targets
        assert alone.text == target.text
    assert together.targets[1].tokens == ()


def test_max_new_tokens_cuts_an_answer(shared: Bench, sample_image: bytes) -> None:
    (target,) = shared.ask(sample_image, "segment blue star", max_new_tokens=7).targets
    assert (len(target.tokens), target.finish_reason) == (7, "length")


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"image": b"not an image"}, InvalidImage),
        ({"image": b""}, InvalidImage),
        ({"image": b"x" * 20_000_001}, ImageTooLarge),
        ({"prompt": ""}, InvalidPrompt),
        ({"prompt": "segment ;"}, InvalidPrompt),
        ({"prompt": "segment <image>"}, InvalidPrompt),
        ({"prompt": "segment <bos> cat"}, InvalidPrompt),
        ({"prompt": "segment " + "a " * 200}, InvalidPrompt),
        ({"prompt": "segment " + "a" * 1_000_000}, InvalidPrompt),
        ({"prompt": "segment a;b;c;d;e;f;g;h;i"}, InvalidPrompt),
        ({"max_new_tokens": 0}, InvalidArgument),
        ({"max_new_tokens": 257}, InvalidArgument),
        ({"model_id": "google/other"}, ModelNotAllowed),
        ({"timeout_s": 0.0}, DeadlineExceeded),
    ],
)
def test_refusals(shared: Bench, sample_image: bytes, arguments: dict[str, object], kind: type[EngineError]) -> None:
    request = {"image": sample_image, "prompt": "segment blue star", **arguments}
    outcome = shared.ask(**request)
    assert type(outcome) is kind
    assert str(outcome).startswith(f"[{outcome.code}] ")
    assert isinstance(shared.ask(sample_image, "segment blue star"), Answer)


def test_one_failed_target_does_not_lose_the_others(own: Bench, sample_image: bytes) -> None:
    own.runner.fail_prefill_of = "red car"
    answer = own.ask(sample_image, "segment blue star ; red car")
    assert [target.finish_reason for target in answer.targets] == ["eos", "error"]
    assert answer.targets[0].tokens
    assert isinstance(own.ask(sample_image, "segment red car"), InternalError)
    assert isinstance(own.ask(sample_image, "segment blue star"), Answer)


def test_overload_is_refused_at_once(own: Bench, sample_image: bytes) -> None:
    """Two slots and three places to wait: the sixth request does not wait."""
    own.runner.may_run.clear()
    accepted = [own.submit(sample_image, "segment blue star") for _ in range(5)]
    assert isinstance(own.ask(sample_image, "segment blue star"), Overloaded)
    own.runner.may_run.set()
    assert all(isinstance(pending.wait(), Answer) for pending in accepted)
    assert isinstance(own.ask(sample_image, "segment blue star"), Answer)


def test_a_deadline_ends_a_running_sequence(own: Bench, sample_image: bytes) -> None:
    own.runner.may_run.clear()
    running = own.submit(sample_image, "segment blue star", timeout_s=0.3)
    wait_until(lambda: running.ticket is not None and time.monotonic() >= running.ticket.deadline)
    own.runner.may_run.set()
    assert isinstance(running.wait(), DeadlineExceeded)
    assert isinstance(own.ask(sample_image, "segment blue star"), Answer)


def test_cancelling_frees_the_slots_before_the_next_step(own: Bench, sample_image: bytes) -> None:
    own.runner.may_run.clear()
    unwanted = [own.submit(sample_image, "segment blue star ; cyan ring") for _ in range(2)]
    wait_until(lambda: all(pending.ticket.sequences for pending in unwanted if pending.ticket))
    for pending in unwanted:
        assert pending.ticket is not None
        own.engine.cancel(pending.ticket)
    own.runner.may_run.set()
    assert all(isinstance(pending.wait(), Cancelled) for pending in unwanted)
    assert own.runner.steps <= 1
    assert isinstance(own.ask(sample_image, "segment blue star"), Answer)


def test_waiting_requests_hold_no_files(own: Bench, sample_image: bytes) -> None:
    """256 of them may wait, each with a file of megabytes and a picture."""
    own.runner.may_run.clear()
    pending = [own.submit(sample_image, "segment blue star ; cyan ring") for _ in range(3)]
    tickets = [each.ticket for each in pending if each.ticket]
    wait_until(lambda: all(ticket.sequences for ticket in tickets))
    wait_until(lambda: all(ticket.request.image == b"" for ticket in tickets))
    for ticket in tickets:
        assert ticket.image is not None
        assert (ticket.image.input_image.nbytes, ticket.image.normalized.nbytes) == (224 * 224 * 3, 3 * 256 * 4)
    own.runner.may_run.set()
    assert all(isinstance(each.wait(), Answer) for each in pending)


def test_a_heartbeat_that_cannot_be_written_stops_nobody(own: Bench, sample_image: bytes) -> None:
    heartbeat = own.engine._heartbeat
    file, heartbeat._file = heartbeat._file, os.open("/dev/full", os.O_WRONLY)
    assert isinstance(own.ask(sample_image, "segment blue star"), Answer)
    os.close(heartbeat._file)
    heartbeat._file = file
    assert isinstance(own.ask(sample_image, "segment blue star"), Answer)


def test_mixed_requests_each_get_one_answer_of_the_right_kind(shared: Bench, sample_image: bytes) -> None:
    """Good ones, broken images, empty prompts, cancelled ones and late ones, all at once."""
    generator = random.Random(0)
    kinds = ["good", "broken", "empty", "cancelled", "late", "two"]
    pending: list[tuple[str, Pending]] = []
    for _ in range(120):
        kind = generator.choice(kinds)
        image = sample_image[:300] if kind == "broken" else sample_image
        prompt = {"empty": " ", "two": "segment cyan ring ; blue star"}.get(kind, "segment blue star")
        each = shared.submit(image, prompt, timeout_s=0.001 if kind == "late" else None)
        if kind == "cancelled":
            assert each.ticket is not None
            shared.engine.cancel(each.ticket)
        pending.append((kind, each))
    expected: dict[str, type[Outcome]] = {
        "good": Answer,
        "two": Answer,
        "broken": InvalidImage,
        "empty": InvalidPrompt,
        "cancelled": Cancelled,
        "late": DeadlineExceeded,
    }
    for kind, each in pending:
        assert isinstance(each.wait(), expected[kind]), (kind, each.outcomes)
    assert isinstance(shared.ask(sample_image, "segment blue star"), Answer)
    assert all(len(each.outcomes) == 1 for _, each in pending)


def test_metrics_say_what_happened(own: Bench, sample_image: bytes) -> None:
    own.ask(sample_image, "segment blue star ; cyan ring")
    own.ask(b"", "segment blue star")
    wait_until(lambda: own.totals_so_far().get("paligemma_requests_total:invalid_image"))
    totals = own.totals_so_far()
    assert totals["paligemma_requests_total:ok"] == 1
    assert totals["paligemma_objects_per_answer"] == 1
    assert totals["paligemma_prefill_seconds"] == 2
    assert totals["paligemma_time_to_first_token_seconds"] == 1
    assert totals["paligemma_slots"] == 2


def test_the_heartbeat_says_how_many_requests_are_unanswered(own: Bench, sample_image: bytes, tmp_path: Path) -> None:
    beat = tmp_path / f"{FILE_PREFIX}0"
    wait_until(beat.exists)
    own.runner.may_run.clear()
    pending = [own.submit(sample_image, "segment blue star") for _ in range(3)]
    own.runner.may_run.set()
    assert all(isinstance(each.wait(), Answer) for each in pending)
    wait_until(lambda: beat.read_text().split()[0] == "0")
    before = beat.read_text()
    wait_until(lambda: beat.read_text() != before)  # idle, it beats all the same


def test_a_server_that_is_to_stop_answers_what_it_has_and_refuses_the_rest(
    own: Bench, sample_image: bytes, tmp_path: Path
) -> None:
    """It took new requests until its time to stop was up: under load it never came to an end."""
    own.runner.may_run.clear()
    running = own.submit(sample_image, "segment blue star")
    wait_until(lambda: bool(own.engine._owners))
    (tmp_path / STOPPING_FILE).touch()
    own.runner.may_run.set()
    assert isinstance(running.wait(), Answer)
    wait_until(lambda: isinstance(own.ask(sample_image, "segment blue star"), Stopping))
