"""What verify.py compares on, and what it says where nothing can be compared."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import DEMO_MODEL_ID
from PIL import Image

from paligemma_engine import EngineConfig
from paligemma_engine.preparation.decoding import ImageLimits, decode_image
from parts.verify.__main__ import main
from parts.verify.cases import drawn_cases, folder_cases
from parts.verify.errors import CannotVerify
from parts.verify.reference import Reference, as_served, find_files, weight_bytes

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=40_000_000)


def test_drawn_pictures_are_read_as_they_are_meant() -> None:
    """JPEG and PNG, odd sizes, two EXIF orientations, transparency: what the server must make of each."""
    pictures = {case.picture.name: case.picture for case in drawn_cases(8)}
    assert len(pictures) == 8
    for picture in pictures.values():
        np.testing.assert_array_equal(np.asarray(decode_image(picture.encoded, LIMITS)), np.asarray(picture.upright))


def test_a_folder_gives_its_pictures_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "b.png")
    Image.new("RGB", (20, 10)).save(tmp_path / "c.jpg")
    (tmp_path / "a.txt").write_text("no picture")
    found, skipped = folder_cases(tmp_path, ["segment cat", "detect cat"], LIMITS, count=8)
    assert [case.name for case in found] == [
        f"{name}: {prompt}" for name in ("b.png", "c.jpg") for prompt in ("segment cat", "detect cat")
    ]
    assert [line.split(":")[0] for line in skipped] == ["a.txt"]
    assert len(folder_cases(tmp_path, ["segment cat"], LIMITS, count=1)[0]) == 1


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CannotVerify, match=r"name (one|another)"):
        folder_cases(tmp_path / name, ["segment cat"], LIMITS, count=8)


def test_beside_a_gpu_the_cpu_computes_in_the_servers_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    assert as_served(EngineConfig(), device=None).device == "cuda:0"
    assert as_served(EngineConfig(), device="cuda:1").dtype == "auto"
    on_cpu = as_served(EngineConfig(), device="cpu")
    assert (on_cpu.device, on_cpu.dtype) == ("cpu", "bfloat16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert as_served(EngineConfig(), device=None).device == "cpu"


def test_a_second_copy_that_does_not_fit_is_refused_before_it_is_loaded(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EngineConfig(model_id=DEMO_MODEL_ID, models_dir=models_dir, dtype="bfloat16")
    files = find_files(config)
    monkeypatch.setattr("parts.verify.reference.free_gpu_bytes", lambda _device: weight_bytes(config, files))
    with pytest.raises(CannotVerify, match="give --device cpu"):
        Reference(dataclasses.replace(config, device="cuda:0"), files)


@pytest.mark.parametrize(
    ("options", "overrides", "said"),
    [
        (["--server", "127.0.0.1:1"], {}, "no server answers at 127.0.0.1:1; start it, or set --server"),
        (["--model-id", "nowhere"], {}, "nowhere is no folder under"),
        ([], {"MODEL_ID": ""}, "set MODEL_ID as it has it, or give --model-id"),
        ([], {"VAE_CHECKPOINT": "nowhere.npz"}, "nowhere.npz: no such file; set VAE_CHECKPOINT"),
        ([], {"DTYPE": "int3"}, "DTYPE must be one of"),
        (["--device", "abacus"], {}, "'abacus' is no device"),
        (["--prompt", "segment cat"], {}, "--prompt is for --pictures"),
        (["--json", "/nowhere/verified.json"], {}, "/nowhere is no folder"),
    ],
)
def test_what_cannot_be_verified_says_why(
    options: list[str],
    overrides: dict[str, str],
    said: str,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables = {
        "MODELS_DIR": str(models_dir),
        "MODEL_ID": DEMO_MODEL_ID,
        "VAE_CHECKPOINT": "",
        "DTYPE": "",
        **overrides,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["verify.py", *options])
    try:
        status = main()
    except SystemExit as ended:  # argparse's way
        status = ended.code
    assert status == 2
    assert said in capsys.readouterr().err
