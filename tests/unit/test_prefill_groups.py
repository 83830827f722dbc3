"""Several prompts in one prefill: which ones, when, and that each gets its own answer."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from arithmetic_runner import POISON, ArithmeticRunner, ArithmeticStep, Clock, run_to_the_end, sequence
from engines import Bench
from parity_cases import Case, assert_equal, make_case, run

from paligemma_engine.device.run_options import RunOptions
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.requests.prepared import PreparedPrompt
from paligemma_engine.requests.sequence import FinishReason, Sequence
from paligemma_engine.scheduling.protocol import StartedVision
from paligemma_engine.scheduling.scheduler import HOLD_S, MAX_PADDING, RUNNING_FOR_EACH_PROMPT, Scheduler
from parts.scenes import draw_scene


def scheduler_with(slots: int, prefill_rows: int) -> tuple[Scheduler, ArithmeticRunner, Clock]:
    runner, clock = ArithmeticRunner(slots, prefill_rows=prefill_rows), Clock()
    return Scheduler(runner, EngineMetrics(), clock=clock), runner, clock


def longer(each: Sequence, tokens: int) -> Sequence:
    each.prompt.input_ids.extend([0] * tokens)
    return each


def test_those_that_wait_are_prefilled_together() -> None:
    scheduler, runner, _ = scheduler_with(slots=5, prefill_rows=3)
    sequences = [sequence(10 * number, 1, 3) for number in range(1, 8)]
    scheduler.add(sequences)
    scheduler.run_once()
    assert runner.prefilled == [{0, 1, 2}, {3, 4}]
    run_to_the_end(scheduler)
    assert [each.token_ids for each in sequences] == [[10 * n, 10 * n + 1, 10 * n + 2] for n in range(1, 8)]


def test_a_failure_costs_only_the_prompt_that_caused_it() -> None:
    scheduler, runner, _ = scheduler_with(slots=4, prefill_rows=4)
    sequences = [sequence(10, 1, 2), sequence(POISON, 1, 2), sequence(20, 1, 2)]
    scheduler.add(sequences)
    run_to_the_end(scheduler)
    assert [each.finish_reason for each in sequences] == [FinishReason.EOS, FinishReason.ERROR, FinishReason.EOS]
    assert (sequences[0].token_ids, sequences[2].token_ids) == ([10, 11], [20, 21])
    last = [sequence(number, 1, 2) for number in range(1, 5)]
    scheduler.add(last)
    run_to_the_end(scheduler)
    assert len(runner.prefilled[-1]) == 4  # all slots are free again


def test_after_a_failure_what_became_of_the_others_counts() -> None:
    """One is cancelled and one overdue when they are tried alone."""
    scheduler, runner, clock = scheduler_with(slots=4, prefill_rows=4)
    cancelled, overdue, wanted = sequence(1, 1, 2), sequence(2, 1, 2, deadline=1.0), sequence(3, 1, 2)
    prefill = runner.prefill

    def failing_once(_prompts: Mapping[int, PreparedPrompt], _vision: StartedVision, **_: int) -> ArithmeticStep:
        cancelled.cancelled, clock.now, runner.prefill = True, 2.0, prefill  # type: ignore[method-assign]
        raise RuntimeError("out of memory")

    runner.prefill = failing_once  # type: ignore[method-assign]
    scheduler.add([cancelled, overdue, wanted])
    run_to_the_end(scheduler)
    assert [each.finish_reason for each in (cancelled, overdue)] == [FinishReason.CANCELLED, FinishReason.DEADLINE]
    assert wanted.token_ids == [3, 4]
    assert [len(slots) for slots in runner.prefilled] == [1]


def test_prompts_of_very_different_length_are_not_padded_to_each_other() -> None:
    scheduler, runner, _ = scheduler_with(slots=8, prefill_rows=8)
    short, alike, long, last = (sequence(number, 1, 2) for number in (1, 2, 3, 4))
    scheduler.add([short, longer(alike, MAX_PADDING), longer(long, MAX_PADDING + 1), longer(last, MAX_PADDING + 1)])
    scheduler.run_once()
    assert runner.prefilled == [{0, 1}, {2, 3}]


def test_the_unwanted_are_left_out_of_a_group() -> None:
    scheduler, runner, clock = scheduler_with(slots=8, prefill_rows=8)
    first, overdue, last = sequence(1, 1, 2), sequence(2, 1, 2, deadline=1.0), sequence(3, 1, 2)
    scheduler.add([first, overdue, last])
    clock.now = 2.0
    run_to_the_end(scheduler)
    assert overdue.finish_reason is FinishReason.DEADLINE
    assert [len(slots) for slots in runner.prefilled] == [2]


class TestWaitingForCompany:
    """With many running, a prefill waits a moment for more prompts."""

    def busy(self) -> tuple[Scheduler, ArithmeticRunner, Clock]:
        scheduler, runner, clock = scheduler_with(slots=4 * RUNNING_FOR_EACH_PROMPT, prefill_rows=8)
        scheduler.add([sequence(1, 1, 90) for _ in range(2 * RUNNING_FOR_EACH_PROMPT)])
        scheduler.run_once()
        runner.prefilled.clear()
        return scheduler, runner, clock

    def test_a_second_prompt_ends_the_wait(self) -> None:
        scheduler, runner, _ = self.busy()
        scheduler.add([sequence(1, 1, 2)])
        scheduler.run_once()
        assert runner.prefilled == []
        scheduler.add([sequence(2, 1, 2)])
        scheduler.run_once()
        assert [len(slots) for slots in runner.prefilled] == [2]

    def test_nobody_waits_for_long(self) -> None:
        scheduler, runner, clock = self.busy()
        for arrival in range(2):  # the second wait is as long as the first
            scheduler.add([sequence(1, 1, 50)])
            scheduler.run_once()
            clock.now += HOLD_S / 2
            scheduler.run_once()
            assert len(runner.prefilled) == arrival
            clock.now += HOLD_S / 2
            scheduler.run_once()
            assert len(runner.prefilled) == arrival + 1

    def test_prompts_that_cannot_go_together_do_not_wait_for_each_other(self) -> None:
        """What waits behind the first is no company for it, and none that comes later can be."""
        scheduler, runner, _ = self.busy()
        scheduler.add([longer(sequence(1, 1, 2), number % 2 * 2 * MAX_PADDING) for number in range(3)])
        scheduler.run_once()
        assert [len(slots) for slots in runner.prefilled] == [1, 1]
        assert len(scheduler._waiting) == 1

    def test_who_has_waited_for_a_slot_does_not_wait_for_company(self) -> None:
        scheduler, runner, clock = scheduler_with(slots=2 * RUNNING_FOR_EACH_PROMPT, prefill_rows=8)
        scheduler.add([sequence(1, 1, 3 if number < 2 else 90) for number in range(2 * RUNNING_FOR_EACH_PROMPT)])
        scheduler.run_once()
        runner.prefilled.clear()
        waiting = sequence(2, 1, 90)
        scheduler.add([waiting])
        clock.now += HOLD_S
        for _ in range(3):  # two end at once: then two prompts would be worth the wait for one more
            scheduler.run_once()
        assert [len(slots) for slots in runner.prefilled] == [1]

    def test_nobody_waits_where_few_run(self) -> None:
        scheduler, runner, _ = scheduler_with(slots=8, prefill_rows=8)
        scheduler.add([sequence(1, 1, 50)])
        scheduler.run_once()
        scheduler.add([sequence(2, 1, 50)])
        scheduler.run_once()
        assert len(runner.prefilled) == 2

    def test_nobody_waits_for_a_slot_that_is_not_free(self) -> None:
        """One slot is free, so one prompt is all that a prefill can take."""
        scheduler, runner, _ = scheduler_with(slots=2 * RUNNING_FOR_EACH_PROMPT + 1, prefill_rows=8)
        scheduler.add([sequence(1, 1, 90) for _ in range(2 * RUNNING_FOR_EACH_PROMPT)])
        scheduler.run_once()
        scheduler.add([sequence(1, 1, 2)])
        scheduler.run_once()
        assert len(runner.prefilled[-1]) == 1

    def test_a_runner_of_single_prompts_never_waits(self) -> None:
        scheduler, runner, _ = scheduler_with(slots=64, prefill_rows=1)
        for _ in range(40):
            scheduler.add([sequence(1, 1, 90)])
            scheduler.run_once()
        assert len(runner.prefilled) == 40


@pytest.fixture(scope="module")
def demo(models_dir: Path) -> Case:
    return make_case(models_dir, "paligemma2-demo-224", max_new_tokens=60, count=60)


@pytest.mark.parametrize("prefill_rows", [3, 8])
def test_the_answers_are_those_of_generate(demo: Case, prefill_rows: int) -> None:
    """Prompts of several lengths share prefills, and slots are used again."""
    assert_equal(demo, run(demo, slots=8, count=60, at_once=5, run_options=RunOptions(prefill_rows=prefill_rows)))


def test_two_prompts_on_one_picture_in_one_prefill_run_the_tower_once(models_dir: Path) -> None:
    scene = draw_scene(12, object_count=2)
    first, second = (found.name for found in scene.objects)
    alone = Bench(models_dir, feature_cache_bytes=0)
    together = Bench(models_dir, feature_cache_bytes=0, run_options=RunOptions(prefill_rows=4))
    prompt = f"segment {first} ; {second}"
    texts = [
        [[token.text for token in target.tokens] for target in bench.ask(scene.jpeg(), prompt).targets]
        for bench in (alone, together)
    ]
    assert texts[0] == texts[1]
    assert together.totals_so_far()["paligemma_image_features_total:computed"] == 1
    for bench in (alone, together):
        bench.engine.close(drain_timeout_s=5)
