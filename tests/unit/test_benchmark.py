"""The benchmark of the whole server: its work, its checkpoint of the real size, and what it says is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engines import ask_once, load_checkpoint
from stack import Ports

from paligemma_engine import EngineConfig
from paligemma_engine.checkpoints.files import size_of, stored_dtype
from parts.benchmark.costs import Meter
from parts.benchmark.real_size import PALIGEMMA2_3B_224, write_checkpoint
from parts.benchmark.workload import make_jobs
from parts.gpu_benchmark.architecture import TINY

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "benchmark.py"


def test_without_triton_it_ends_with_one_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--models", "paligemma2-demo-224", "--json", tmp_path / "report.json"],
        env={**os.environ, **Ports.free().environ(), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: triton ended")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report.json").exists()


def test_the_checkpoint_of_the_real_size_is_written_once_and_served(tmp_path: Path, sample_image: bytes) -> None:
    """In shards and in bfloat16, as the hub has it; its answers end at the bound alone."""
    folder = tmp_path / "random"
    (tmp_path / "random.part").mkdir()
    write_checkpoint(folder, TINY, shard_size="100KB")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["random"]
    shards = sorted(folder.glob("*.safetensors"))
    written = [shard.stat().st_mtime_ns for shard in shards]
    assert len(shards) > 1
    assert stored_dtype(folder) == "bfloat16"
    write_checkpoint(folder, TINY)
    assert [shard.stat().st_mtime_ns for shard in shards] == written
    config = EngineConfig(
        model_id="random", models_dir=tmp_path, dtype="bfloat16", max_slots=1, max_new_tokens=6, grammar=False
    )
    assert load_checkpoint(config).model.config.text_config.vocab_size == TINY.vocab_size
    (target,) = ask_once(config, sample_image, "segment blue star").targets
    assert len(target.tokens) == 6
    assert size_of(folder).weight_bytes < 10_000_000


def test_the_real_size_is_that_of_the_3b() -> None:
    """google/paligemma2-3b-mix-224 has 256 image tokens."""
    assert PALIGEMMA2_3B_224.image_tokens == 256
    assert (PALIGEMMA2_3B_224.hidden_size, PALIGEMMA2_3B_224.layers) == (2304, 26)


@pytest.mark.parametrize("work", ["equal", "mixed"])
def test_all_answers_are_stopped_where_it_is_asked(work: str) -> None:
    assert {job.max_new_tokens for job in make_jobs(4, work, is_random=True, max_new_tokens=5)} == {5}
    assert {job.max_new_tokens for job in make_jobs(4, work)} == {100}


SHARES_MEMORY = """
import os, sys
shared = bytearray(os.urandom(1 << 20) * 200)
child = os.fork()
if child == 0:
    print("ready", flush=True)
sys.stdin.read()
"""


def test_pages_that_processes_share_are_counted_once() -> None:
    """A server's stubs were counted with the pages of the libraries that all of them map."""
    command = [sys.executable, "-c", SHARES_MEMORY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with Meter([process.pid]) as meter:
            pass
        process.stdin.close()
    assert 200 < meter.peak_bytes / (1 << 20) < 300  # 400 were they counted twice
