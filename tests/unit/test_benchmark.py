"""The benchmark of the whole server: its work, its checkpoint of the real size, and what it says is missing."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import DEMO_MODEL_ID
from engines import ask_once, load_checkpoint
from fastapi.testclient import TestClient
from PIL import Image
from stack import Ports
from transformers import PaliGemmaForConditionalGeneration

from mask_vae import MaskVae
from paligemma_engine import EngineConfig
from paligemma_engine.checkpoints.files import size_of, stored_dtype
from parts.benchmark.costs import Meter
from parts.benchmark.real_size import PALIGEMMA2_3B_224, write_checkpoint
from parts.benchmark.reference_service import ReferenceService, create_app
from parts.benchmark.results import Result, print_ratios
from parts.benchmark.workload import make_jobs
from parts.gpu_benchmark.architecture import TINY
from parts.model_packages import environment

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


@pytest.mark.parametrize(("keep", "loads"), [(False, 2), (True, 1)])
def test_the_stand_in_for_the_reference_answers_with_masks(
    models_dir: Path, sample_image: bytes, monkeypatch: pytest.MonkeyPatch, *, keep: bool, loads: int
) -> None:
    """It loads the model again for each request, unless it is told to keep it."""
    checkpoints: list[Path] = []
    load = PaliGemmaForConditionalGeneration.from_pretrained
    monkeypatch.setattr(
        PaliGemmaForConditionalGeneration,
        "from_pretrained",
        lambda checkpoint: [checkpoints.append(checkpoint), load(checkpoint)][1],
    )
    service = ReferenceService(models_dir / DEMO_MODEL_ID, MaskVae.load(models_dir / "vae-demo.npz"), keep=keep)
    with TestClient(create_app(service)) as client:
        for _ in range(2):
            answer = client.post(
                "/segment", data={"prompt": "segment blue star"}, files={"image_file": sample_image}
            ).raise_for_status()
    assert len(checkpoints) == loads
    body = answer.json()
    assert set(body) == {"image", "masks"}
    assert png_size(body["image"]) == (224, 224)
    (found,) = body["masks"]
    assert png_size(found["mask"]) == (64, 64)
    assert found["coordinates"] == pytest.approx([155, 109, 207, 176], abs=2)  # as the server answers


def png_size(encoded: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(encoded))).size


MEASURES_REFERENCE = """
import json, pathlib, sys
from parts.benchmark.contenders import run_reference, running_reference
from parts.benchmark.results import Result
from parts.benchmark.workload import make_jobs
models_dir, result = pathlib.Path(sys.argv[1]), Result("r", 2)
with running_reference(models_dir / sys.argv[2], models_dir / "vae-demo.npz", keep=True) as reference:
    run_reference(reference, result, make_jobs(4))
print(json.dumps(result.summary()))
"""


def test_the_reference_runs_as_a_process_and_is_measured(models_dir: Path) -> None:
    """Started from a process of its own: this one may have threads of other tests."""
    command = [sys.executable, "-c", MEASURES_REFERENCE, str(models_dir), DEMO_MODEL_ID]
    done = subprocess.run(command, env=environment(), timeout=120, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert (summary["requests"], summary["clients"]) == (4, 2)
    assert summary["p50_s"] > 0
    assert summary["cpu_s_per_request"] > 0
    assert summary["peak_mb"] > 100


def test_ratios_are_to_each_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def result(name: str, wall_s: float, cpu_s: float) -> Result:
        return Result(name, 16, requests=10, wall_s=wall_s, cpu_s=cpu_s, latencies_s=[wall_s] * 10)

    summaries = [result("r", 8.0, 6.0), result("r kept", 4.0, 3.0), result("d", 0.5, 0.5)]
    print_ratios([each.summary() for each in summaries])
    assert capsys.readouterr().out.splitlines() == [
        "d against r: 16.0 x requests/s, 12.0 x requests per CPU second, 0.06 x p50",
        "d against r kept: 8.0 x requests/s, 6.0 x requests per CPU second, 0.12 x p50",
    ]


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
