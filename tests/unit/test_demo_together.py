"""Several processes that train one model: what each gets from the others, and how they end together."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from parts.training.progress import Run
from parts.training.together import Together, train_together


def share_gradients(together: Together, folder: Path) -> None:
    used, lopsided, unused = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    used.grad = torch.full((2, 2), float(together.rank))
    if together.is_first:
        lopsided.grad = torch.ones(2, 2)
    together.mean_gradients([used, lopsided, unused])
    assert used.grad is not None
    assert lopsided.grad is not None
    seen: dict[str, Any] = {"used": used.grad.tolist(), "lopsided": lopsided.grad.tolist(), "unused": unused.grad}
    seen["first"] = together.as_the_first(10.0 + together.rank)
    (folder / f"{together.rank}.json").write_text(json.dumps(seen))


def stop_in_the_third_step(together: Together, folder: Path) -> None:
    run = Run(folder, 1.0, together)
    if together.is_first:
        run.stop_on_signals()
    for step in run.steps("some"):
        time.sleep(0.01 * (1 + together.rank))  # clocks of their own would part
        if step == 2 and together.is_first:
            os.kill(os.getpid(), signal.SIGTERM)
    run.save({})
    (folder / f"{together.rank}.json").write_text(json.dumps([run.step, run.seconds, run.stopped]))


def fail_in_the_first(together: Together, _nothing: None) -> None:
    if together.is_first:
        raise RuntimeError("the first one fails")
    together.as_the_first(0.0)


@pytest.fixture
def own_signals() -> Any:
    old = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in old:
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
def test_all_get_the_mean_of_the_gradients_and_the_firsts_values(tmp_path: Path) -> None:
    train_together(2, share_gradients, tmp_path)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "used": [[0.5, 0.5], [0.5, 0.5]],
            "lopsided": [[0.5, 0.5], [0.5, 0.5]],
            "unused": None,
            "first": [10.0],
        }


@pytest.mark.usefixtures("own_signals")
def test_a_signal_to_the_first_ends_all_after_the_same_step(tmp_path: Path) -> None:
    train_together(2, stop_in_the_third_step, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first[0] == 3
    assert first[2] is True
    assert Run(tmp_path, 1.0).load("cpu") == {"seconds": first[1], "step": 3}


@pytest.mark.usefixtures("own_signals")
def test_no_process_stays_when_the_first_fails() -> None:
    with pytest.raises(RuntimeError, match="the first one fails"):
        train_together(2, fail_in_the_first, None)
