"""How many threads compute, by the model's size, the cores, and the container's limit on CPU time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID
from engines import demo_checkpoint

from paligemma_engine.device import threads as threads_module
from paligemma_engine.device.cores import available_cores, physical_cores
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.device.threads import LARGE_WEIGHT_BYTES, CpuThreads

SMALL = 16_000_000


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What PyTorch is told, on a host of eight logical cores with two threads each."""
    told: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads_module, "available_cores", lambda: 8)
    monkeypatch.setattr(threads_module, "physical_cores", lambda: 4)
    monkeypatch.setattr("torch.set_num_threads", told.append)
    return told


@pytest.mark.parametrize(
    ("alone", "under_load", "lone", "shared"),
    [(0.7, 0.7, 8, 4), (0.97, 0.7, 4, 4), (0.7, 0.55, 8, 8), (0.97, 0.55, 8, 8)],
)
def test_a_small_model_uses_all_cores_only_where_they_help(
    used: list[int], monkeypatch: pytest.MonkeyPatch, alone: float, under_load: float, lone: int, shared: int
) -> None:
    """`alone`, `under_load`: the time of a step with all cores, relative to half of them."""
    seconds = 0.0

    def step_that_gains(gain: float) -> Callable[[], None]:
        def step() -> None:
            nonlocal seconds
            seconds += gain if used[-1] == 8 else 1.0

        return step

    monkeypatch.setattr("time.perf_counter", lambda: seconds)
    threads = CpuThreads(SMALL)
    threads.calibrate(alone=step_that_gains(alone), under_load=step_that_gains(under_load))
    threads.set_for(1)
    assert used[-1] == lone
    threads.set_for(2)
    assert used[-1] == shared


@pytest.mark.parametrize("vary", [True, False])
def test_a_large_model_always_uses_all_cores(used: list[int], vary: bool) -> None:
    """Under load it used half of them, and the others had nothing to do.

    PyTorch's number is a thread's own: another thread sets it anew.
    """
    threads = CpuThreads(LARGE_WEIGHT_BYTES, vary=vary)
    threads.set_for(1)
    threads.calibrate(**dict.fromkeys(("alone", "under_load"), lambda: pytest.fail("there is nothing to try")))
    for sequences in (1, 2, 8):
        threads.set_for(sequences)
    assert used == [4]
    with ThreadPoolExecutor(1) as other:
        other.submit(threads.set_for, 1).result()
    assert used == [4, 4]


def test_another_thread_does_not_change_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch initialises a thread late, with the number that any thread has set last."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads, before = CpuThreads(SMALL), torch.get_num_threads()
    with ThreadPoolExecutor(1) as other:
        other.submit(threads.set_for, 1).result()
        torch.set_num_threads(2)
        found = other.submit(torch.get_num_threads).result()
    torch.set_num_threads(before)
    assert found == 1


@pytest.mark.parametrize("weight_bytes", [SMALL, LARGE_WEIGHT_BYTES])
def test_a_set_number_is_kept(used: list[int], monkeypatch: pytest.MonkeyPatch, weight_bytes: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads = CpuThreads(weight_bytes)
    for sequences in (1, 8):
        threads.set_for(sequences)
    assert used == [3]


def test_a_runner_says_how_large_its_model_is(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = CpuThreads.__init__

    def noted(self: CpuThreads, weight_bytes: int, *, vary: bool = True) -> None:
        sizes.append(weight_bytes)
        original(self, weight_bytes, vary=vary)

    monkeypatch.setattr(CpuThreads, "__init__", noted)
    ModelRunner(demo_checkpoint(models_dir), slots=1, max_new_tokens=8, grammar=False)
    assert sizes == [pytest.approx((models_dir / DEMO_MODEL_ID / "model.safetensors").stat().st_size, rel=0.01)]
    assert torch.float32.itemsize * 3.9e6 < sizes[0] < LARGE_WEIGHT_BYTES


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})


@pytest.mark.usefixtures("four_threads")
def test_two_threads_of_a_core_count_once_as_physical(tmp_path: Path) -> None:
    for number, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert physical_cores(tmp_path, tmp_path) == 2
    assert physical_cores(tmp_path / "hidden", tmp_path) == 4
    assert available_cores(tmp_path) == 4


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("limit", "cores"), [("200000 100000", 2), ("150000 100000", 2), ("max 100000", 4), ("x", 4)])
def test_a_containers_limit_on_cpu_time(tmp_path: Path, limit: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert available_cores(tmp_path) == cores


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("10000", 1), ("-1", 4)])
def test_control_groups_of_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert physical_cores(tmp_path, tmp_path) == cores
