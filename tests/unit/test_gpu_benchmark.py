"""The benchmark for GPUs: whole, on a tiny model; its arithmetic on the real sizes, without weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from parts.gpu_benchmark.__main__ import main
from parts.gpu_benchmark.architecture import PALIGEMMA2_3B_448, make_model
from parts.gpu_benchmark.ceilings import ModelCost

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SCRIPT = REPOSITORY / "scripts" / "gpu_benchmark.py"
PROMPT_TOKENS = 1028  # of the image 1024


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The report and what was printed; on the CPU also where there is a GPU."""
    file = tmp_path_factory.mktemp("report") / "report.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--small", "--rounds", "1", "--json", file],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), done.stdout


def test_the_tokens_are_those_of_generate(run: tuple[dict[str, Any], str]) -> None:
    exactness = run[0]["setting"]["exactness"]
    assert exactness["equal"] == exactness["answers"] == exactness["different_answers"] > 1


def test_it_says_how_the_steps_were_run(run: tuple[dict[str, Any], str]) -> None:
    report, printed = run
    assert report["setting"]["execution"] == "grouped attention, not compiled, not captured"
    assert report["setting"]["execution"] in printed


def test_every_contender_is_measured(run: tuple[dict[str, Any], str]) -> None:
    report, printed = run
    contenders = [(load["name"], load["concurrent"]) for load in report["loads"]]
    assert contenders == [("a", 1), ("b", 8), *(("engine", count) for count in (1, 8, 32, 64)), ("same", 32)]
    for load in report["loads"]:
        assert load["requests"] >= 4
        assert 0 < load["p50_s"] <= load["p95_s"]
        assert (load["idle_share"] is None) == (load["name"] in "ab")
        assert load["idle_share"] is None or 0 < load["idle_share"] < 1
        assert f"{load['requests_per_s']:.2f}" in printed
    assert [step["rows"] for step in report["steps"]] == [1, 2, 4, 8]


def test_ratios_and_shares_follow_from_the_figures(run: tuple[dict[str, Any], str]) -> None:
    report, _ = run
    reference = report["loads"][0]
    steps = {step["rows"]: step["floor_s"] for step in report["steps"]}
    for load in report["loads"]:
        rows = min(load["concurrent"], report["setting"]["slots"])
        floor = rows / (rows * report["prefill"]["floor_s"] + 23 * steps[rows])
        if load["name"] == "same":  # the vision tower sees the picture once
            assert load["floor_requests_per_s"] > floor
            floor = load["floor_requests_per_s"]
        assert load["times_a"] == pytest.approx(load["requests_per_s"] / reference["requests_per_s"])
        assert load["floor_requests_per_s"] == pytest.approx(floor)
        assert load["share_of_floor"] == pytest.approx(load["requests_per_s"] / floor)
    for measured in [report["prefill"], *report["steps"]]:
        assert measured["share_of_floor"] == pytest.approx(measured["floor_s"] / measured["seconds"])


def test_the_full_size_is_that_of_the_3b() -> None:
    model = make_model(PALIGEMMA2_3B_448, device=torch.device("meta"), dtype=torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == 3_033_127_152
    cost = ModelCost.of(model)
    assert cost.prefill_flops(PROMPT_TOKENS) == pytest.approx(5.21e12, rel=0.01)
    vision = cost.prefill_flops(PROMPT_TOKENS) - cost.prefill_flops(PROMPT_TOKENS, picture_seen=True)
    assert vision == 2 * cost.vision_weights * 1024 + cost.vision_attention * 1024**2
    assert cost.position_bytes == 106_496
    one, many = cost.step_bytes(1, PROMPT_TOKENS), cost.step_bytes(32, PROMPT_TOKENS)
    assert many - one == 31 * PROMPT_TOKENS * cost.position_bytes
    assert one == pytest.approx(5.3e9, rel=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: it would be measured in earnest")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert main() == "error: PyTorch sees no GPU here; --small tries the benchmark on the CPU"
