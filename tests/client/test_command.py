"""The command paligemma-segment, against a gateway that answers as it is told."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.coco
import pytest
from PIL import Image
from scripted_gateway import HANG_UP, ScriptedGateway, answer, failure, scripted_gateway
from stack import wait_until

import paligemma_client.retrying
from paligemma_client import masks
from paligemma_client.command.__main__ import main
from paligemma_client.command.journal import Journal

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MODELS = (200, {}, json.dumps({"default": "m", "allowed": [], "loaded": ["m"], "loading": []}).encode())
MASK = np.zeros((6, 8), np.bool_)
MASK[1:4, 2:7] = True
CAT = {"mask": masks.encode(MASK), "coordinates": [2, 1, 7, 4], "label": "cat", "score": 0.9, "mask_score": 0.8}
DOG = {"mask": None, "coordinates": [0, 0, 4, 6], "label": "dog", "score": 0.5, "mask_score": None}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedGateway]:
    monkeypatch.setattr(paligemma_client.retrying, "FIRST_PAUSE_S", 0.001)
    with scripted_gateway(models=[MODELS], segment=[answer([CAT, DOG])]) as gateway:
        yield gateway


def names(folder: Path, pattern: str = "*") -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern) if path.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def asked(gateway: ScriptedGateway) -> int:
    return len(gateway.bodies())


def read_coco(path: Path) -> pycocotools.coco.COCO:
    with contextlib.redirect_stdout(None):
        return pycocotools.coco.COCO(str(path))


def test_everything_that_can_be_written(gateway: ScriptedGateway, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(pictures), "--prompt", "cat", "--prompt", "dog", "--server", gateway.url, "--concurrency", "3"]
    outputs = ["coco", "jsonl", "yolo", "masks", "overlays", "cutouts"]
    assert main([*arguments, *(part for name in outputs for part in (f"--{name}", str(out / name)))]) == 0

    coco = read_coco(out / "coco")
    expected = ["a.bmp", "a.png", "b.png", "c.PNG", "sub/a.png", "sub/d.png"]
    assert [image["file_name"] for image in coco.dataset["images"]] == expected
    assert [category["name"] for category in coco.dataset["categories"]] == ["cat", "dog"]
    assert len(coco.anns) == 12 == len({annotation["id"] for annotation in coco.dataset["annotations"]})
    cats = [coco.anns[number] for number in coco.getAnnIds(catIds=[1])]
    assert all(np.array_equal(coco.annToMask(cat), MASK) for cat in cats)
    assert {tuple(cat["bbox"]) for cat in cats} == {(2, 1, 5, 3)}

    lines = [json.loads(line) for line in (out / "jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == expected
    assert lines[0]["prompts"] == ["cat", "dog"]
    bases = ["a.bmp", "a.png", "b", "c", "sub/a", "sub/d"]
    assert names(out / "masks") == {f"{base}_00_cat.png" for base in bases}
    assert np.array_equal(pixels(out / "masks" / "b_00_cat.png"), MASK)
    assert names(out / "cutouts") == {f"{base}_{object_}.png" for base in bases for object_ in ("00_cat", "01_dog")}
    assert pixels(out / "cutouts" / "b_00_cat.png").shape == (3, 5, 4)
    assert names(out / "overlays") == {f"{base}.jpg" for base in bases}
    assert (out / "yolo" / "labels" / "b.txt").read_text().splitlines() == [
        "0 0.250000 0.166667 0.875000 0.166667 0.875000 0.666667 0.250000 0.666667",
        "1 0.250000 0.500000 0.500000 1.000000",
    ]
    assert (out / "yolo" / "images" / "b.png").resolve() == (pictures / "b.png").resolve()
    assert 'names:\n  0: "cat"\n  1: "dog"\n' in (out / "yolo" / "data.yaml").read_text()


def test_prompts_are_asked_together(gateway: ScriptedGateway, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts"
    file.write_text("red car\n\nhouse\n")
    arguments = [str(pictures / "b.png"), "--prompts-file", str(file), "--prompt", "cat", "--server", gateway.url]
    assert main([*arguments, "--coco", str(tmp_path / "coco"), "--min-score", "0.3"]) == 0
    (body,) = gateway.bodies()
    assert "segment cat ; red car ; house\r\n" in body
    assert 'name="min_score"\r\n\r\n0.3\r\n' in body


def test_what_is_done_is_not_asked_again(gateway: ScriptedGateway, pictures: Path, tmp_path: Path) -> None:
    command = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--coco", str(tmp_path / "coco")]
    assert main(command) == 0
    first = (tmp_path / "coco").read_bytes()
    assert (main(command), asked(gateway)) == (0, 6)
    assert (tmp_path / "coco").read_bytes() == first

    assert (main([*command, "--restart"]), asked(gateway)) == (0, 12)
    Image.new("RGB", (9, 9)).save(pictures / "b.png")
    assert (main(command), asked(gateway)) == (0, 13), "a picture that has changed is asked about again"
    assert (main([*command, "--prompt", "dog"]), asked(gateway)) == (0, 19), "another question is asked of all"
    assert len(read_coco(tmp_path / "coco").imgs) == 6


def test_files_that_are_missing_are_written_again(gateway: ScriptedGateway, pictures: Path, tmp_path: Path) -> None:
    overlays = tmp_path / "overlays"
    command = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--overlays", str(overlays)]
    assert main(command) == 0
    (overlays / "b.jpg").unlink()
    assert (main(command), asked(gateway)) == (0, 7)
    assert (overlays / "b.jpg").exists()


def test_outputs_within_the_pictures_folder_are_no_pictures(
    gateway: ScriptedGateway, pictures: Path, tmp_path: Path
) -> None:
    outputs = ["--masks", str(pictures / "masks"), "--yolo", str(pictures / "yolo")]
    command = [str(pictures), "--prompt", "cat", "--server", gateway.url, *outputs]
    assert (main(command), main(command), asked(gateway)) == (0, 0, 6)


def test_a_run_that_is_killed_goes_on(gateway: ScriptedGateway, pictures: Path, tmp_path: Path) -> None:
    """Killed with SIGKILL after two pictures, with half a line in the journal."""
    coco, journal = tmp_path / "coco", tmp_path / "coco.journal"
    command = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--coco", str(coco), "--concurrency", "2"]
    gateway.answers["/segment"] = [answer([CAT]), answer([CAT]), failure(503, "overloaded", Retry_After="1")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "client")}
    process = subprocess.Popen([sys.executable, "-m", "paligemma_client.command", *command], env=environment)
    try:
        wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") == 2, 60, "two pictures are done")
    finally:
        process.kill()
        process.wait()
    assert not coco.exists()
    with journal.open("ab") as file:
        file.write(b'{"key": "cut o')

    gateway.requests.clear()
    gateway.answers["/segment"] = [answer([CAT])]
    assert (main(command), asked(gateway)) == (0, 4)
    dataset = read_coco(coco).dataset
    assert sorted(image["file_name"] for image in dataset["images"]) == sorted(names(pictures, "[a-z]*.[pPb]*[gGp]"))
    assert len(dataset["annotations"]) == 6


def test_pictures_that_fail_are_listed(
    gateway: ScriptedGateway, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--coco", str(tmp_path / "coco")]
    gateway.answers["/segment"] = [failure(400, "invalid_image"), answer([CAT])]
    assert main([*command, "--concurrency", "1"]) == 1
    message = capsys.readouterr().err
    assert "5 pictures done" in message and "1 failed (1 invalid_image)" in message and "a.bmp" in message
    failures = tmp_path / "coco.journal.failures.jsonl"
    (line,) = [json.loads(line) for line in failures.read_text().splitlines()]
    assert (Path(line["source"]).name, line["code"]) == ("a.bmp", "invalid_image")
    assert len(read_coco(tmp_path / "coco").imgs) == 5

    assert main(command) == 0
    assert not failures.exists()
    assert len(read_coco(tmp_path / "coco").imgs) == 6


@pytest.mark.parametrize("reason", ["deadline", "cancelled", "error"])
def test_a_picture_that_the_server_did_not_finish_is_tried_again(
    gateway: ScriptedGateway, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    targets = [{"target": "cat", "finish_reason": "eos"}, {"target": "dog", "finish_reason": reason}]
    gateway.answers["/segment"] = [answer([CAT], targets=targets), answer([CAT, DOG])]
    arguments = [str(pictures / "b.png"), "--prompt", "cat", "--prompt", "dog", "--server", gateway.url]
    command = [*arguments, "--coco", str(tmp_path / "coco")]
    assert main(command) == 1
    assert "1 failed (1 incomplete)" in capsys.readouterr().err
    (line,) = [json.loads(line) for line in (tmp_path / "coco.journal.failures.jsonl").read_text().splitlines()]
    assert line["code"] == "incomplete" and f"'dog' ({reason})" in line["message"]

    assert (main(command), asked(gateway)) == (0, 2)
    assert len(read_coco(tmp_path / "coco").anns) == 2


def test_a_server_that_hangs_up_for_a_while(gateway: ScriptedGateway, pictures: Path, tmp_path: Path) -> None:
    gateway.answers["/segment"] = [*[HANG_UP] * 7, answer([CAT])]
    arguments = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--coco", str(tmp_path / "coco")]
    assert main(arguments) == 0
    assert len(read_coco(tmp_path / "coco").imgs) == 6


def test_a_server_that_stays_away(gateway: ScriptedGateway, pictures: Path, tmp_path: Path) -> None:
    gateway.answers["/segment"] = [answer([CAT]), HANG_UP]
    arguments = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--coco", str(tmp_path / "coco")]
    assert main([*arguments, "--timeout", "0.5", "--concurrency", "2"]) == 2
    assert not (tmp_path / "coco").exists()
    assert (tmp_path / "coco.journal").read_bytes().count(b"\n") == 1


def test_a_key_that_is_refused_ends_the_run(
    gateway: ScriptedGateway, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers["/models"] = [failure(401, "unauthorized")]
    command = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--coco", str(tmp_path / "coco")]
    assert (main(command), asked(gateway)) == (2, 0)
    gateway.answers["/models"], gateway.answers["/segment"] = [MODELS], [failure(401, "unauthorized")]
    assert main(command) == 2
    assert "--api-key-file" in capsys.readouterr().err


def test_a_dry_run_asks_and_writes_nothing(
    gateway: ScriptedGateway, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--coco", str(out / "coco"), "--dry-run"]
    assert (main(arguments), gateway.requests, out.exists()) == (0, [], False)
    assert "6 pictures, 0 of them done" in capsys.readouterr().out


def test_one_picture_for_a_program(
    gateway: ScriptedGateway, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(pictures / "b.png"), "--prompt", "cat", "--server", gateway.url]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [found["label"] for found in printed["objects"]] == ["cat", "dog"]


def test_one_picture_for_a_person(
    gateway: ScriptedGateway,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main([str(pictures / "b.png"), "--prompt", "cat", "--server", gateway.url]) == 0
    _head, cat, dog, drawn = capsys.readouterr().out.splitlines()
    assert cat.split() == ["cat", "0.90", "0.80", "2,", "1,", "7,", "4", "15"]
    assert dog.split() == ["dog", "0.50", "-", "0,", "0,", "4,", "6", "24"]
    assert drawn == "drawn: b_segmented.png"
    assert pixels(tmp_path / "b_segmented.png").shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-file", "--prompt", "x"], "no file, folder or pattern"),
        (["{pictures}"], "give --prompt"),
        (["{pictures}", "--prompt", "x"], "say where the answers go"),
        (["{pictures}/sub", "--prompt", "x", "--tiles", "big", "--coco", "c"], "tiles must be"),
        (["{pictures}", "--prompt", "x", "--min-score", "2", "--coco", "c"], "from 0 to 1"),
        (["{pictures}", "--prompt", "x", "--server", "nonsense", "--coco", "{pictures}/c"], "http://host:port"),
        (["{pictures}", "--prompt", "x", "--server", "http://127.0.0.1:9", "--coco", "{pictures}/c"], "cannot be"),
        (["{pictures}", "--prompt", "x", "--api-key-file", "/no/file", "--coco", "c"], "/no/file cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str],
    message: str,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paligemma_client.command.run.FIRST_CALL_TIMEOUT_S", 0.2)
    try:
        status: Any = main([argument.format(pictures=pictures) for argument in arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_two_runs_do_not_write_to_one_journal(gateway: ScriptedGateway, pictures: Path, tmp_path: Path) -> None:
    with Journal(tmp_path / "coco.journal"):
        command = [str(pictures), "--prompt", "cat", "--server", gateway.url, "--coco", str(tmp_path / "coco")]
        assert main(command) == 2
