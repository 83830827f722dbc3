"""Slots, admission and endings, with sums instead of a model: each sequence's tokens are known beforehand."""

from collections.abc import Mapping

import pytest
from arithmetic_runner import NOT_FINITE, POISON, ArithmeticRunner, ArithmeticStep, Clock, run_to_the_end, sequence
from letters import IDS, SEP, letter_vocabulary

from paligemma_engine.answers.repeats import RepeatDetector
from paligemma_engine.answers.vocabulary import Task
from paligemma_engine.errors import InternalError
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.requests.prepared import PreparedPrompt
from paligemma_engine.requests.sequence import FinishReason, Status
from paligemma_engine.scheduling.protocol import DeviceLost, StartedVision
from paligemma_engine.scheduling.scheduler import Scheduler


def scheduler_with(slots: int, steps_ahead: int = 0) -> tuple[Scheduler, ArithmeticRunner, Clock]:
    runner, clock = ArithmeticRunner(slots, steps_ahead), Clock()
    return Scheduler(runner, EngineMetrics(), clock=clock), runner, clock


def test_one_sequence() -> None:
    scheduler, _, _ = scheduler_with(slots=1)
    only = sequence(5, 2, 4)
    scheduler.add([only])
    assert run_to_the_end(scheduler) == [only]
    assert only.token_ids == [5, 7, 9, 11]
    assert only.logprobs == [-0.005, -0.007, -0.009, -0.011]
    assert (only.finish_reason, only.status, only.slot) == (FinishReason.EOS, Status.FINISHED, None)


@pytest.mark.parametrize("steps_ahead", [0, 1])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_more_sequences_than_slots(slots: int, steps_ahead: int) -> None:
    """Whatever shares the steps, each sequence gets its own numbers."""
    scheduler, runner, _ = scheduler_with(slots, steps_ahead)
    sequences = [sequence(10 * number, number, 1 + number % 5) for number in range(1, 30)]
    for each in sequences:  # arriving while others run
        scheduler.add([each])
        scheduler.run_once()
    run_to_the_end(scheduler)
    for number, each in enumerate(sequences, start=1):
        assert each.token_ids == [10 * number + number * step for step in range(1 + number % 5)]
        assert each.finish_reason is FinishReason.EOS
    assert max(len(occupied) for occupied in runner.decoded) == slots


def test_released_slot_never_sees_previous_tokens() -> None:
    scheduler, _, _ = scheduler_with(slots=1)
    first, second = sequence(100, 1, 3), sequence(1, 1, 3)
    scheduler.add([first, second])
    run_to_the_end(scheduler)
    assert second.token_ids == [1, 2, 3]


def test_a_newcomer_starts_before_long_ones_end() -> None:
    scheduler, _, _ = scheduler_with(slots=3)
    long_ones = [sequence(1, 1, 50), sequence(2, 1, 50)]
    scheduler.add(long_ones)
    scheduler.run_once()
    newcomer = sequence(7, 1, 2)
    scheduler.add([newcomer])
    for _ in range(3):
        scheduler.run_once()
    assert newcomer.status is Status.FINISHED
    assert all(each.status is Status.RUNNING for each in long_ones)


def test_first_come_first_served() -> None:
    scheduler, _, _ = scheduler_with(slots=1)
    sequences = [sequence(number, 1, 2) for number in (1, 2, 3)]
    scheduler.add(sequences)
    assert run_to_the_end(scheduler) == sequences


def test_low_slots_are_used_first_so_that_steps_stay_small() -> None:
    scheduler, runner, _ = scheduler_with(slots=8)
    scheduler.add([sequence(1, 1, 2), sequence(1, 1, 9)])
    for _ in range(3):
        scheduler.run_once()
    scheduler.add([sequence(1, 1, 3)])
    run_to_the_end(scheduler)
    assert max(max(slots) for slots in runner.decoded) == 1


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_length_limit(steps_ahead: int) -> None:
    scheduler, _, _ = scheduler_with(1, steps_ahead)
    limited, exact = sequence(1, 1, 50, max_new_tokens=3), sequence(1, 1, 3, max_new_tokens=3)
    scheduler.add([limited, exact])
    run_to_the_end(scheduler)
    assert (limited.token_ids, limited.finish_reason) == ([1, 2, 3], FinishReason.LENGTH)
    assert (exact.token_ids, exact.finish_reason) == ([1, 2, 3], FinishReason.LENGTH)


def test_an_empty_answer() -> None:
    scheduler, _, _ = scheduler_with(slots=1)
    empty = sequence(1, 1, 0)
    scheduler.add([empty])
    run_to_the_end(scheduler)
    assert (empty.token_ids, empty.finish_reason) == ([], FinishReason.EOS)


def test_a_failed_prefill_harms_nobody_else() -> None:
    scheduler, _, _ = scheduler_with(slots=2)
    running, poisoned, waiting = sequence(1, 1, 5), sequence(POISON, 1, 5), sequence(2, 1, 5)
    scheduler.add([running, poisoned, waiting])
    run_to_the_end(scheduler)
    assert poisoned.finish_reason is FinishReason.ERROR
    assert isinstance(poisoned.error, InternalError)
    assert (running.token_ids, waiting.token_ids) == ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6])


def test_a_prefill_that_finds_the_device_lost_is_fatal() -> None:
    """Else every request would fail for itself, on a server that looks well."""
    scheduler, runner, _ = scheduler_with(slots=1)

    def lost(_prompts: Mapping[int, PreparedPrompt], _vision: StartedVision, **_: int) -> ArithmeticStep:
        raise DeviceLost

    runner.prefill = lost  # type: ignore[method-assign]
    scheduler.add([sequence(1, 1, 5)])
    with pytest.raises(DeviceLost):
        scheduler.run_once()


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_a_log_probability_that_is_not_finite_ends_its_sequence_alone(steps_ahead: int) -> None:
    """Token 0 with log-probability NaN came out as a success, and here it even means the end of the answer."""
    scheduler, _, _ = scheduler_with(2, steps_ahead)
    running, broken, waiting = sequence(1, 1, 5), sequence(7, NOT_FINITE, 5), sequence(2, 1, 5)
    scheduler.add([running, broken, waiting])
    run_to_the_end(scheduler)
    assert broken.finish_reason is FinishReason.ERROR
    assert isinstance(broken.error, InternalError)
    assert "DTYPE=float32" in str(broken.error)
    assert (broken.token_ids, broken.logprobs) == ([7], [-0.007])
    assert (running.token_ids, waiting.token_ids) == ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6])


def test_slots_are_free_after_failed_prefills() -> None:
    scheduler, _, _ = scheduler_with(slots=2)
    scheduler.add([sequence(POISON, 1, 1) for _ in range(20)])
    run_to_the_end(scheduler)
    last = sequence(1, 1, 2)
    scheduler.add([last])
    run_to_the_end(scheduler)
    assert last.token_ids == [1, 2]


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_a_failed_step_is_raised(steps_ahead: int) -> None:
    scheduler, _, _ = scheduler_with(1, steps_ahead)
    scheduler.add([sequence(1, POISON, 5)])
    with pytest.raises(RuntimeError, match="the device is lost"):
        run_to_the_end(scheduler)


def test_read_one_step_late_costs_one_step_and_the_slot_is_clean() -> None:
    """The step that was started before an end was seen gives nobody a token, neither the old nor the new."""
    scheduler, runner, _ = scheduler_with(slots=1, steps_ahead=1)
    first, second = sequence(1, 1, 3), sequence(100, 1, 3)
    scheduler.add([first, second])
    run_to_the_end(scheduler)
    assert (first.token_ids, second.token_ids) == ([1, 2, 3], [100, 101, 102])
    assert len(runner.decoded) == 2 * (3 + 1)


@pytest.mark.parametrize(("steps_ahead", "read_before"), [(0, 3), (1, 2)])
def test_prefills_follow_one_another_unread(steps_ahead: int, read_before: int) -> None:
    """As many first tokens as there are prefills, each read when the next step has been started, or at once."""
    scheduler, runner, _ = scheduler_with(3, steps_ahead)
    read: list[int] = []
    decode = runner.decode
    runner.decode = lambda slots: (read.append(runner.last_read), decode(slots))[1]  # type: ignore[method-assign]
    arriving = [sequence(10 * number, 1, 2) for number in (1, 2, 3)]
    scheduler.add(arriving)
    scheduler.run_once()
    assert read == [read_before]
    run_to_the_end(scheduler)
    assert [each.token_ids for each in arriving] == [[10, 11], [20, 21], [30, 31]]


def test_a_first_token_that_ends_the_answer_is_seen_late() -> None:
    scheduler, _, _ = scheduler_with(slots=1, steps_ahead=1)
    empty, other = sequence(1, 1, 0), sequence(7, 1, 2)
    scheduler.add([empty, other])
    assert run_to_the_end(scheduler) == [empty, other]
    assert (empty.token_ids, other.token_ids) == ([], [7, 8])


def test_seconds_count_for_the_kind_of_step_that_took_them() -> None:
    """A prefill that is read late is not mistaken for a slow decode step."""

    class SlowReads(ArithmeticRunner):
        def prefill(
            self, prompts: Mapping[int, PreparedPrompt], vision: StartedVision, **running: int
        ) -> ArithmeticStep:
            step = super().prefill(prompts, vision, **running)
            read = step.read
            step.read = lambda: (wait(10.0), read())[1]  # type: ignore[method-assign]
            wait(1.0)
            return step

    clock, metrics = Clock(), EngineMetrics()

    def wait(seconds: float) -> None:
        clock.now += seconds

    scheduler = Scheduler(SlowReads(1, steps_ahead=1), metrics, clock=clock)
    scheduler.add([sequence(1, 1, 3)])
    run_to_the_end(scheduler)
    samples = {sample.family.name: sample.value for sample in metrics.drain()}
    assert samples["paligemma_prefill_seconds"] == 11.0
    assert samples["paligemma_decode_step_seconds_total"] == 0.0


def test_cancelled_while_a_step_is_unread() -> None:
    scheduler, _, _ = scheduler_with(slots=1, steps_ahead=1)
    cancelled, wanted = sequence(1, 1, 50), sequence(5, 1, 3)
    scheduler.add([cancelled])
    scheduler.run_once()
    cancelled.cancelled = True
    scheduler.add([wanted])
    assert run_to_the_end(scheduler) == [cancelled, wanted]
    assert (cancelled.token_ids, wanted.token_ids) == ([1], [5, 6, 7])


def test_nothing_is_held_when_all_have_been_cancelled() -> None:
    """The step that was not read yet kept its sequences and their pictures until the next request."""
    scheduler, _, _ = scheduler_with(slots=1, steps_ahead=1)
    cancelled = sequence(1, 1, 50)
    scheduler.add([cancelled])
    scheduler.run_once()
    cancelled.cancelled = True
    assert scheduler.run_once() == [cancelled]
    assert not scheduler._unread


@pytest.mark.parametrize("ending", ["cancelled", "deadline"])
def test_unwanted_sequences_end_before_the_next_step(ending: str) -> None:
    scheduler, runner, clock = scheduler_with(slots=1)
    running, waiting, wanted = (sequence(number, 1, 50, deadline=10.0) for number in (1, 2, 3))
    wanted.deadline = 1000.0
    scheduler.add([running, waiting, wanted])
    scheduler.run_once()
    if ending == "cancelled":
        running.cancelled = waiting.cancelled = True
    else:
        clock.now = 10.0
    steps = len(runner.decoded)
    finished = scheduler.run_once()
    assert finished == [running, waiting]
    assert [each.finish_reason for each in finished] == [FinishReason(ending)] * 2
    assert len(runner.decoded) == steps + 1  # for the wanted one, which has the slot already
    assert wanted.token_ids == [3, 4]


def test_a_repeat_ends_a_sequence() -> None:
    """A model that writes nothing but separators: the second one ends the same, empty, object again."""
    vocabulary, separator = letter_vocabulary(), IDS[SEP]
    scheduler, _, _ = scheduler_with(slots=1)
    same = sequence(separator, 0, 50, repeats=RepeatDetector(vocabulary, Task.DETECT))
    scheduler.add([same])
    run_to_the_end(scheduler)
    assert same.finish_reason is FinishReason.REPEAT
    assert same.token_ids == [separator, separator]


def test_metrics_count_steps_and_tokens() -> None:
    runner, metrics = ArithmeticRunner(2), EngineMetrics()
    scheduler = Scheduler(runner, metrics)
    scheduler.add([sequence(1, 1, 3), sequence(1, 1, 5)])
    run_to_the_end(scheduler)
    samples = {sample.family.name: sample.value for sample in metrics.drain()}
    assert samples["paligemma_decode_steps_total"] == 5
    assert samples["paligemma_decode_tokens_total"] == 3 + 5
