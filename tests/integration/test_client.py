"""The Python client against the real gateway and the real Triton."""

import asyncio
import base64
import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pycocotools.coco
import pycocotools.mask
import pytest
from PIL import Image

from paligemma_client import AsyncClient, Client, RequestRefused, Result, Target, UnsupportedCall, masks
from paligemma_client.command.__main__ import main
from parts.scenes import draw_scene

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SAMPLE = REPOSITORY / "docs" / "sample.png"
TARGETS = ["blue star", "cyan ring"]


def server(stack: Any, transport: str) -> str:
    return stack.url if transport == "rest" else f"127.0.0.1:{stack.ports.grpc}"


@pytest.fixture(scope="module")
def reference(stack: Any) -> list[tuple[str, list[int], float, float, np.ndarray]]:
    """What the API says, read without the client."""
    fields = {"prompt": "segment blue star ; cyan ring", "mask_format": "rle", "coordinate_space": "original"}
    files = {"image_file": SAMPLE.read_bytes()}
    entries = httpx2.post(f"{stack.url}/segment", data=fields, files=files, timeout=60).json()["masks"]
    return [
        (
            entry["label"],
            entry["coordinates"],
            entry["score"],
            entry["mask_score"],
            pycocotools.mask.decode(entry["mask"]) > 0,
        )
        for entry in entries
    ]


def check(result: Result, reference: list[tuple[str, list[int], float, float, np.ndarray]]) -> None:
    assert len(reference) == len(result.objects) == 2
    assert result.is_complete
    assert (result.width, result.height) == (640, 480)
    for found, (label, coordinates, score, mask_score, mask) in zip(result.objects, reference, strict=True):
        assert (found.label, list(found.box_xyxy)) == (label, coordinates)
        assert (found.score, found.mask_score) == (pytest.approx(score, abs=2e-4), pytest.approx(mask_score, abs=2e-4))
        assert found.mask is not None and np.array_equal(found.mask, mask)


@pytest.mark.parametrize("transport", ["rest", "triton"])
def test_both_transports_give_the_apis_masks(stack: Any, transport: str, reference: list[Any]) -> None:
    with Client(server(stack, transport), transport=transport) as client:  # type: ignore[arg-type]
        for picture in (SAMPLE, str(SAMPLE), SAMPLE.read_bytes(), Image.open(SAMPLE), np.asarray(Image.open(SAMPLE))):
            check(client.segment(picture, TARGETS), reference)
        assert len(list(client.stream(SAMPLE, TARGETS))) == 2
        boxes = client.detect(SAMPLE, "blue star").objects
        cut = client.segment(SAMPLE, TARGETS, max_new_tokens=3)
    assert [(found.mask, found.polygon()) for found in boxes] == [(None, [])]
    assert (cut.is_complete, cut.targets) == (False, [Target(name, "length") for name in TARGETS])


@pytest.mark.parametrize("transport", ["rest", "triton"])
def test_asynchronous_calls_run_at_once(stack: Any, transport: str, reference: list[Any]) -> None:
    async def ask() -> list[Result]:
        async with AsyncClient(server(stack, transport), transport=transport) as client:  # type: ignore[arg-type]
            results = await asyncio.gather(*(client.segment(SAMPLE, TARGETS) for _ in range(6)))
            assert len([found async for found in client.stream(SAMPLE, TARGETS)]) == 2
        return list(results)

    for result in asyncio.run(ask()):
        check(result, reference)


def test_models(stack: Any) -> None:
    with Client(stack.url) as client:
        assert client.models().default == "paligemma2-demo-224"
    with Client(server(stack, "triton"), transport="triton") as client, pytest.raises(UnsupportedCall):
        client.models()


@pytest.mark.parametrize("transport", ["rest", "triton"])
def test_errors_have_the_servers_codes(stack: Any, transport: str) -> None:
    with Client(server(stack, transport), transport=transport) as client:  # type: ignore[arg-type]
        with pytest.raises(RequestRefused) as caught:
            client.segment(b"no picture", "cat")
        assert caught.value.code == "invalid_image"
        with pytest.raises(RequestRefused) as caught:
            client.segment(SAMPLE, "cat", model_id="nobody/nothing")
        assert caught.value.code == "model_not_allowed"


@pytest.mark.parametrize("transport", ["rest", "triton"])
def test_a_low_score_can_be_left_out(stack: Any, transport: str, reference: list[Any]) -> None:
    scores = sorted(score for _, _, score, _, _ in reference)
    with Client(server(stack, transport), transport=transport) as client:  # type: ignore[arg-type]
        kept = client.segment(SAMPLE, TARGETS, min_score=sum(scores) / 2).objects
    assert [found.score for found in kept] == pytest.approx([scores[1]], abs=2e-4)


def test_a_turned_photograph(stack: Any) -> None:
    """Masks and boxes are those of the upright picture, which is what draw() shows."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(SAMPLE).convert("RGB").rotate(90, expand=True).save(buffer, "JPEG", quality=95, exif=exif)
    with Client(stack.url) as client:
        turned = client.segment(buffer.getvalue(), TARGETS)
        upright = client.segment(SAMPLE, TARGETS)
    assert turned.image().size == turned.draw().size == (turned.width, turned.height) == (640, 480)
    for found, expected in zip(turned.objects, upright.objects, strict=True):
        assert found.run_lengths and expected.run_lengths
        assert masks.iou(found.run_lengths, expected.run_lengths) > 0.8


def test_a_large_picture_cut_by_cut(stack: Any) -> None:
    """Four copies of the sample, one in each corner: the model is asked about each, and all objects are found."""
    sample = Image.open(SAMPLE).convert("RGB")
    sheet = Image.new("RGB", (1280, 960))
    for x, y in ((0, 0), (640, 0), (0, 480), (640, 480)):
        sheet.paste(sample, (x, y))
    with Client(stack.url) as client:
        whole, cut = client.segment(sheet, "blue star"), client.segment(sheet, "blue star", tiles="2x2")
    assert (cut.width, cut.height) == (1280, 960)
    assert len(cut.objects) >= 4 >= len(whole.objects)
    for found in cut.objects:
        assert found.mask is not None and found.mask.shape == (960, 1280)


@pytest.mark.parametrize("transport", ["rest", "triton"])
def test_a_list_of_pictures_through_the_command(stack: Any, transport: str, tmp_path: Path) -> None:
    """Drawn pictures, each asked for what is on it; the masks in the COCO file are those of the API."""
    scenes = {f"{seed}.jpg": draw_scene(seed) for seed in range(4)}
    prompts = {name: " ; ".join(drawn.name for drawn in scene.objects) for name, scene in scenes.items()}
    for name, scene in scenes.items():
        (tmp_path / name).write_bytes(scene.jpeg())
    pictures, coco = tmp_path / "list.csv", tmp_path / "coco.json"
    pictures.write_text("picture,prompt\n" + "".join(f"{name},{prompt}\n" for name, prompt in prompts.items()))
    served = ["--server", server(stack, transport), "--transport", transport, "--concurrency", "4"]
    assert main([str(pictures), "--coco", str(coco), *served]) == 0
    with contextlib.redirect_stdout(None):
        loaded = pycocotools.coco.COCO(str(coco))
    assert [image["file_name"] for image in loaded.dataset["images"]] == list(scenes)
    assert len(loaded.anns) >= len(scenes)
    for image in loaded.dataset["images"]:
        name = image["file_name"]
        fields = {"prompt": prompts[name], "mask_format": "full", "coordinate_space": "original"}
        files = {"image_file": (tmp_path / name).read_bytes()}
        entries = httpx2.post(f"{stack.url}/segment", data=fields, files=files, timeout=60).json()["masks"]
        annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[image["id"]]))
        assert len(entries) == len(annotations)
        for entry, annotation in zip(entries, annotations, strict=True):
            mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["mask"]))))
            assert np.array_equal(loaded.annToMask(annotation) > 0, mask)


@pytest.mark.parametrize("mark", ["result.draw()", "asyncio.run"])
def test_the_examples_of_the_documentation(stack: Any, mark: str, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "client.md").read_text()
    (program,) = [block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if mark in block]
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "client")}
    command = [sys.executable, "-W", "error", "-c", program.replace("http://localhost:8000", stack.url)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
