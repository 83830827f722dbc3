"""How well the demo model segments, through `/segment`; and that asking the server or the checkpoint gives the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parts.evaluate.answerers import Checkpoint, Server
from parts.evaluate.cases import plain_cases, scene_cases
from parts.evaluate.summary import Judged, judge, summarize

SEED = 20_000
CASES = 30
MIXED_CASES = 60
FLOORS = {"one": 0.87, "two": 0.87}  # mean IoU; the recorded figures, less a margin for so few cases
MIXED_FLOORS = {"shape": 0.68, "everyday": 0.58}


@pytest.fixture(scope="module")
def server(stack: Any) -> Server:
    return Server(stack.url, model_id=None)


@pytest.fixture(scope="module")
def judged(server: Server) -> list[Judged]:
    cases = list(plain_cases(SEED, CASES))
    return [judge(case, answer) for case, answer in zip(cases, server.ask(cases), strict=True)]


def test_the_demo_model_is_as_good_as_its_card_says(judged: list[Judged]) -> None:
    table = summarize(judged)
    assert table["well_formed"] == 1
    assert table["absent"]["recall"] >= 0.9
    for form, floor in FLOORS.items():
        assert table["by_form"][form]["mean_iou"] > floor, form


def test_it_knows_turned_shapes_and_everyday_objects_too(server: Server) -> None:
    cases = list(scene_cases(SEED, MIXED_CASES))
    table = summarize([judge(case, answer) for case, answer in zip(cases, server.ask(cases), strict=True)])
    assert table["well_formed"] == 1
    assert table["absent"]["recall"] >= 0.9
    for family, floor in MIXED_FLOORS.items():
        assert table["by_family"][family]["mean_iou"] > floor, family


def test_a_checkpoint_alone_answers_as_the_server_does(judged: list[Judged], models_dir: Path, server: Server) -> None:
    """One target, since the server splits the others; boxes differ in how their edges are rounded to pixels."""
    alone = Checkpoint(models_dir / "paligemma2-demo-224", models_dir / "vae-demo.npz")
    same = [one for one in judged if len(one.case.truths) < 2][:8]
    answers = alone.ask([one.case for one in same])
    assert [answer.text for answer in answers] == [one.answer.text for one in same]
    for one, answer in zip(same, answers, strict=True):
        for served, direct in zip(one.answer.objects, answer.objects, strict=True):
            assert served.mask is not None and direct.mask is not None
            assert np.mean(served.mask != direct.mask) < 0.01


def test_detect_answers_are_read(server: Server) -> None:
    cases = [case for case in scene_cases(SEED, 60) if case.task == "detect" and case.truths][:3]
    for answer in server.ask(cases):
        assert all(found.mask is None for found in answer.objects)
