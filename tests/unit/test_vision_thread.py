"""The vision tower beside the other steps: running sequences decode meanwhile, and answers stay what they are."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from arithmetic_runner import ArithmeticRunner, Clock, run_to_the_end, sequence
from engines import Bench

from paligemma_engine import Answer
from paligemma_engine.device import threads as threads_module
from paligemma_engine.device.run_options import Compiled, CudaGraphs, RunOptions
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.model.vision_step import VisionStep
from paligemma_engine.requests.prepared import PreparedImage
from paligemma_engine.requests.sequence import FinishReason
from paligemma_engine.scheduling.scheduler import Scheduler
from parts.scenes import draw_scene

BESIDE = RunOptions(prefill_rows=4, vision_beside=True)


class TestOnPaper:
    """The scheduler, with a vision tower that says when it is done."""

    @pytest.fixture
    def runner(self) -> ArithmeticRunner:
        return ArithmeticRunner(slots=4, prefill_rows=4)

    @pytest.fixture
    def scheduler(self, runner: ArithmeticRunner) -> Scheduler:
        """One sequence runs; the pictures of the next ones take time."""
        scheduler = Scheduler(runner, EngineMetrics(), clock=Clock())
        scheduler.add([sequence(100, 1, 90)])
        scheduler.run_once()
        runner.vision_is_done = False
        return scheduler

    def test_running_sequences_decode_meanwhile(self, scheduler: Scheduler, runner: ArithmeticRunner) -> None:
        first, second = sequence(10, 1, 3), sequence(20, 1, 3)
        scheduler.add([first, second])
        for _ in range(5):
            scheduler.run_once()
        assert (len(runner.prefilled), runner.decoded[-5:]) == (1, [{0}] * 5)
        runner.vision[-1].done = True
        run_to_the_end(scheduler)
        assert runner.prefilled[1:] == [{1, 2}]
        assert (first.token_ids, second.token_ids) == ([10, 11, 12], [20, 21, 22])

    def test_the_next_pictures_are_started_before_a_prefill(
        self, scheduler: Scheduler, runner: ArithmeticRunner
    ) -> None:
        scheduler.add([sequence(10, 1, 3)])
        scheduler.run_once()
        scheduler.add([sequence(20, 1, 3)])
        runner.vision[-1].done = True
        prefill, started = runner.prefill, []
        runner.prefill = lambda *given, **running: (  # type: ignore[method-assign]
            started.append(len(runner.vision)),
            prefill(*given, **running),
        )[1]
        scheduler.run_once()
        assert started == [3]  # the running one's, the prefilled one's, the next one's
        assert runner.told_running[2:] == [1, 2, 1]  # the second has the prefill between

    def test_without_a_thread_beside_the_next_ones_are_taken_after_the_prefill(
        self, scheduler: Scheduler, runner: ArithmeticRunner
    ) -> None:
        """So those that arrive during the prefill can go with them."""
        runner.looks_ahead, runner.vision_is_done, runner.prefill_rows = False, True, 1
        scheduler.add([sequence(10, 1, 3), sequence(20, 1, 3)])
        scheduler.run_once()
        assert [len(vision.images) for vision in runner.vision] == [1, 1, 1]
        assert runner.told_running == [0, 0, 1, 1, 2, 2]

    def test_a_lone_sequence_is_told_from_one_of_several(self, scheduler: Scheduler, runner: ArithmeticRunner) -> None:
        """When the last of several had ended, the next one still counted as the second."""
        run_to_the_end(scheduler)
        runner.told_running.clear()
        scheduler.add([sequence(10, 1, 3)])
        run_to_the_end(scheduler)
        assert runner.told_running == [0, 0]

    def test_a_prefill_waits_for_its_pictures_when_nothing_runs(self, runner: ArithmeticRunner) -> None:
        runner.vision_is_done = False
        scheduler = Scheduler(runner, EngineMetrics())
        only = sequence(10, 1, 3)
        scheduler.add([only])
        scheduler.run_once()
        assert only.token_ids == [10, 11]

    @pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.DEADLINE])
    def test_who_is_unwanted_by_then_gets_no_prefill(
        self, scheduler: Scheduler, runner: ArithmeticRunner, reason: FinishReason
    ) -> None:
        unwanted, wanted = sequence(10, 1, 3), sequence(20, 1, 3)
        scheduler.add([unwanted, wanted])
        scheduler.run_once()
        if reason is FinishReason.CANCELLED:
            unwanted.cancelled = True
        else:
            unwanted.deadline = 0.0
        assert scheduler.run_once() == [unwanted]
        runner.vision[-1].done = True
        later = [sequence(30 + number, 1, 3) for number in range(2)]
        scheduler.add(later)
        runner.vision_is_done = True
        run_to_the_end(scheduler)
        assert (unwanted.finish_reason, unwanted.token_ids) == (reason, [])
        assert wanted.token_ids == [20, 21, 22]
        assert runner.prefilled[1:] == [{2}, {1, 3}]  # its slot was free for the next ones

    def test_when_all_of_a_group_are_unwanted_nothing_is_left(
        self, scheduler: Scheduler, runner: ArithmeticRunner
    ) -> None:
        group = [sequence(10, 1, 3), sequence(20, 1, 3)]
        scheduler.add(group)
        scheduler.run_once()
        for each in (*group, *scheduler.running):
            each.cancelled = True
        run_to_the_end(scheduler)
        assert len(runner.prefilled) == 1
        assert not scheduler.has_work


@pytest.fixture
def computed_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that ran the vision tower."""
    names: list[str] = []
    load = VisionStep.load

    def noted(step: VisionStep, images: Sequence[PreparedImage]) -> None:
        names.append(threading.current_thread().name)
        load(step, images)

    monkeypatch.setattr(VisionStep, "load", noted)
    return names


@pytest.fixture
def bench(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """With a thread for the vision tower on any host."""
    monkeypatch.setattr(threads_module, "available_cores", lambda: 4)
    bench = Bench(models_dir, run_options=BESIDE, feature_cache_bytes=0)
    yield bench
    bench.engine.close(drain_timeout_s=5)


@pytest.mark.parametrize(("cores", "thread"), [(4, "vision_0"), (1, "engine")])
def test_it_has_a_thread_where_the_steps_leave_it_a_core(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, computed_by: list[str], cores: int, thread: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads_module, "available_cores", lambda: cores)
    bench = Bench(models_dir, run_options=BESIDE)
    scene = draw_scene(12)
    answer = bench.ask(scene.jpeg(), f"segment {scene.objects[0].name}")
    bench.engine.close(drain_timeout_s=5)
    assert isinstance(answer, Answer)
    assert computed_by == [thread]


def test_answers_are_the_same(bench: Bench, models_dir: Path, computed_by: list[str]) -> None:
    """Many at once; each with its own picture, as one alone in the engine thread gets it."""
    alone = Bench(models_dir, feature_cache_bytes=0)
    scenes = [draw_scene(seed) for seed in range(20, 32)]
    asked = [(scene.jpeg(), f"segment {scene.objects[0].name}") for scene in scenes]
    pending = [bench.submit(*each) for each in asked]
    for each, arriving in zip(asked, pending, strict=True):
        expected, found = alone.ask(*each).targets[0].tokens, arriving.wait().targets[0].tokens
        assert [token.text for token in found] == [token.text for token in expected]
        assert [token.logprob for token in found] == pytest.approx([token.logprob for token in expected], abs=1e-4)
    alone.engine.close(drain_timeout_s=5)
    assert set(computed_by) == {"vision_0", "engine"}  # the other one's is the engine's


def test_a_failure_costs_only_the_request_that_caused_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, computed_by: list[str]
) -> None:
    scenes = [draw_scene(seed) for seed in range(40, 44)]
    load = VisionStep.load

    def failing(step: VisionStep, images: Sequence[PreparedImage]) -> None:
        if any(image.original_hw == (64, 48) for image in images):
            raise RuntimeError("poisoned")
        load(step, images)

    monkeypatch.setattr(VisionStep, "load", failing)
    bench.runner.may_run.clear()
    poisoned = bench.submit(draw_scene(44, size=(48, 64)).jpeg(), "segment red star")
    others = [bench.submit(scene.jpeg(), f"segment {scene.objects[0].name}") for scene in scenes]
    bench.runner.may_run.set()
    assert "RuntimeError" in str(poisoned.wait())
    assert all(isinstance(each.wait(), Answer) for each in others)
    assert "vision_0" in computed_by


@pytest.mark.parametrize("fixed", [{"compiled": Compiled.STEPS}, {"cuda_graphs": CudaGraphs.AUTO}])
def test_steps_of_fixed_shape_stay_in_the_engine_thread(fixed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="engine thread"):
        RunOptions(vision_beside=True, **fixed)  # type: ignore[arg-type]
