"""Graphs are checked before they serve, and a runner answers the same with them, without them, and where they fail."""

import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import demo_checkpoint
from stand_in_graphs import AnswersAsAtCapture, Captures, FailsToCapture

from paligemma_engine.config import CUDA_GRAPHS
from paligemma_engine.device.checked_capture import capture_checked
from paligemma_engine.device.cuda_graph import CapturedStep
from paligemma_engine.device.run_options import CudaGraphs, RunOptions
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.errors import ModelFailed
from paligemma_engine.preparation.pixels import ImagePreparer
from paligemma_engine.preparation.prompt_tokens import tokenize_prompt
from paligemma_engine.preparation.prompts import split_prompt
from paligemma_engine.requests.prepared import PreparedPrompt
from parts.scenes import draw_scene

SLOTS = 2
BEYOND_ROUNDING = 1.1


class CountingStep:
    """Says how often it ran since it was rehearsed, as a token, a log-probability, and features."""

    def __init__(self) -> None:
        self.runs = torch.zeros(1, dtype=torch.long)

    def rehearse(self, number: int) -> None:
        self.runs.fill_(10 * number)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.runs += 1
        return self.runs.clone(), -self.runs.float()


class Changes:
    """Its graphs answer as the step, with one of the outputs changed."""

    def __init__(self, index: int, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._index, self._change = index, change

    def __call__(self, step: Callable[[], Any], /) -> Callable[[], Any]:
        step()  # a capture runs it, too

        def replay() -> tuple[torch.Tensor, ...]:
            outputs = list(step())
            outputs[self._index] = self._change(outputs[self._index])
            return tuple(outputs)

        return replay


@pytest.mark.parametrize("strict", [False, True])
def test_a_graph_that_answers_alike_serves(strict: bool) -> None:
    step, captures = CountingStep(), Captures()
    replay = capture_checked(step, captures, strict=strict)
    before = captures.replayed
    step.runs.fill_(100)
    tokens, logprobs = replay()
    assert (int(tokens), float(logprobs)) == (101, -101.0)
    assert captures.replayed == before + 1


@pytest.mark.parametrize(
    ("capture", "problem"),
    [
        (FailsToCapture(), r"failed \(CUDA error: operation not permitted when stream is capturing\)"),
        (AnswersAsAtCapture(), "answered differently"),
        (Changes(0, lambda tokens: tokens + 1), "answered differently"),
        (Changes(1, lambda logprobs: logprobs * BEYOND_ROUNDING), "answered differently"),
        (Changes(1, lambda logprobs: logprobs * torch.nan), "answered differently"),
    ],
)
def test_one_that_does_not_is_dropped_or_refused(capture: Any, problem: str, caplog: pytest.LogCaptureFixture) -> None:
    step = CountingStep()
    with caplog.at_level(logging.WARNING):
        assert capture_checked(step, capture, strict=False) is step
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "CountingStep runs without a CUDA graph" in caplog.text
    with pytest.raises(ModelFailed, match=f"{problem}; set CUDA_GRAPHS=auto or off"):
        capture_checked(step, capture, strict=True)


def test_rounding_is_no_difference() -> None:
    step = CountingStep()
    assert capture_checked(step, Changes(1, lambda logprobs: logprobs * 1.001), strict=True) is not step


def test_a_step_that_fails_by_itself_is_left_to_the_caller() -> None:
    """The warm-up runs it next, and says why it fails."""

    class Broken(CountingStep):
        def __call__(self) -> Any:
            raise RuntimeError("no kernel image is available for execution on the device")

    step = Broken()
    assert capture_checked(step, lambda step: step, strict=False) is step


def test_a_captured_step_lives_as_long_as_its_graph() -> None:
    """A graph replays kernels on the memory of the step's tensors, and does not keep that from being used again."""

    class Graph:
        replayed = 0

        def replay(self) -> None:
            self.replayed += 1

    graph, step = Graph(), CountingStep()
    alive = weakref.ref(step)
    replay = CapturedStep(graph, "output", step)
    del step
    assert alive() is not None
    assert (replay(), graph.replayed) == ("output", 1)
    del replay
    assert alive() is None


def answers(models_dir: Path, **run_options: Any) -> list[tuple[int, float]]:
    """Tokens and log-probabilities of two sequences, from runners whose steps are captured as told."""
    checkpoint = demo_checkpoint(models_dir)
    runner = ModelRunner(
        checkpoint,
        slots=SLOTS,
        max_new_tokens=16,
        grammar=True,
        run_options=RunOptions(prompt_padding=(32, 128), length_step=None, **run_options),
    )
    runner.warm_up()
    prepare = ImagePreparer(checkpoint.processor.image_processor)
    scene = draw_scene(3, object_count=2)
    found = []
    for slot, named in enumerate(scene.objects):
        asked = split_prompt(f"segment {named.name}")[0]
        prompt = PreparedPrompt(prepare(scene.image), tokenize_prompt(checkpoint, asked), asked)
        vision = runner.start_vision([prompt.image], running=slot)
        found.append(runner.prefill({slot: prompt}, vision, running=slot).read()[slot])
    for _ in range(8):
        found += runner.decode(range(SLOTS)).read().values()
    return [(token.token_id, token.logprob) for token in found]


@pytest.mark.parametrize("capture", [Captures, FailsToCapture, AnswersAsAtCapture])
def test_a_runner_answers_the_same_with_graphs_and_where_they_fail(
    models_dir: Path, capture: type, caplog: pytest.LogCaptureFixture
) -> None:
    """What was made up to compare leaves nothing behind in the slots."""
    expected = answers(models_dir)
    made = capture()
    found = answers(models_dir, cuda_graphs=CudaGraphs.AUTO, make_capture=lambda: made)
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert [logprob for _, logprob in found] == pytest.approx([logprob for _, logprob in expected], abs=1e-5)
    steps = ["PrefillStep", "PrefillStep", "VisionStep", "DecodeStep", "DecodeStep"]
    if isinstance(made, Captures):
        assert made.captured == steps
        assert made.replayed > 2 * len(steps)
        assert not caplog.records
    else:
        assert [record.getMessage().split()[0] for record in caplog.records] == steps


def test_a_strict_runner_does_not_start(models_dir: Path) -> None:
    with pytest.raises(ModelFailed, match="a step cannot be captured"):
        answers(models_dir, cuda_graphs=CudaGraphs.ON, make_capture=FailsToCapture)


def test_the_setting_names_all_choices() -> None:
    assert sorted(CUDA_GRAPHS) == sorted(CudaGraphs)
