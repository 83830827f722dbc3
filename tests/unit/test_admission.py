"""When waiting sequences are prefilled: slow prefills are spread over rounds, unwanted ones are left out."""

import math
from collections.abc import Mapping

import pytest
from arithmetic_runner import ArithmeticRunner, ArithmeticStep, Clock, run_to_the_end, sequence

from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.requests.prepared import PreparedPrompt
from paligemma_engine.requests.sequence import FinishReason
from paligemma_engine.scheduling.protocol import StartedVision
from paligemma_engine.scheduling.scheduler import PREFILL_BUDGET_S, Scheduler


class SlowPrefills(ArithmeticRunner):
    """Each prefill takes so many seconds on the clock."""

    def __init__(self, slots: int, clock: Clock, seconds: float) -> None:
        super().__init__(slots)
        self._clock, self._seconds = clock, seconds
        self.prefilled_at: list[float] = []

    def prefill(self, prompts: Mapping[int, PreparedPrompt], vision: StartedVision, **running: int) -> ArithmeticStep:
        self._clock.now += self._seconds
        self.prefilled_at.append(self._clock.now)
        return super().prefill(prompts, vision, **running)


@pytest.mark.parametrize(("seconds", "in_first_round"), [(4.0, 1), (PREFILL_BUDGET_S / 2, 2), (0.0, 6)])
def test_slow_prefills_are_spread_over_rounds(seconds: float, in_first_round: int) -> None:
    """Between two rounds the engine gives a sign of life, and running sequences get a token in each."""
    clock = Clock()
    runner = SlowPrefills(8, clock, seconds)
    scheduler = Scheduler(runner, EngineMetrics(), clock=clock)
    sequences = [sequence(10 * number, 1, 3) for number in range(1, 7)]
    scheduler.add(sequences)
    scheduler.run_once()
    assert len(runner.prefilled_at) == in_first_round
    run_to_the_end(scheduler)
    assert [each.token_ids[0] for each in sequences] == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("ending", ["cancelled", "deadline"])
def test_unwanted_sequences_are_not_prefilled_after_a_slow_prefill(ending: str) -> None:
    """What happened to them while another prompt was prefilled counts."""
    clock = Clock()
    runner = SlowPrefills(8, clock, 0.1)
    scheduler = Scheduler(runner, EngineMetrics(), clock=clock)
    first, unwanted, wanted = sequence(1, 1, 3), sequence(2, 1, 3, deadline=0.05), sequence(3, 1, 3)
    if ending == "cancelled":
        unwanted.deadline = math.inf
        prefill = runner.prefill

        def cancelling(prompts: Mapping[int, PreparedPrompt], vision: StartedVision, **running: int) -> ArithmeticStep:
            unwanted.cancelled = True
            return prefill(prompts, vision, **running)

        runner.prefill = cancelling  # type: ignore[method-assign]
    scheduler.add([first, unwanted, wanted])
    run_to_the_end(scheduler)
    assert unwanted.finish_reason is FinishReason(ending)
    assert len(runner.prefilled_at) == 2
