"""The published protocol's arithmetic, the table made of it, and the formats that cases are read from."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parts.evaluate.answerers import without_empty_parts
from parts.evaluate.cases import Case, plain_cases, scene_cases
from parts.evaluate.folders import coco_cases, refcoco_cases
from parts.evaluate.protocol import Answer, Predicted, Truth, box_iou, is_well_formed, mask_iou, paste, score
from parts.evaluate.sheet import draw_sheet
from parts.evaluate.summary import judge, summarize

SIZE = (40, 20)  # width and height
LOCS = "<loc0000><loc0000><loc0511><loc0511>"
SEGS = "<seg001>" * 16


def rectangle(x_min: int, y_min: int, x_max: int, y_max: int) -> Any:
    mask = np.zeros(SIZE[::-1], bool)
    mask[y_min:y_max, x_min:x_max] = True
    return mask


def truth(x_min: int, y_min: int, x_max: int, y_max: int, family: str = "shape") -> Truth:
    box = (x_min / SIZE[0], y_min / SIZE[1], x_max / SIZE[0], y_max / SIZE[1])
    return Truth(rectangle(x_min, y_min, x_max, y_max), box, family)


def predicted(*edges: int) -> Predicted:
    same = truth(*edges)
    return Predicted(same.box, same.mask)


def case(truths: list[Truth], *, task: str = "segment", form: str = "name") -> Case:
    return Case(Image.new("RGB", SIZE), task, "thing", truths, form)


def test_iou_of_masks_and_boxes() -> None:
    first, second = truth(0, 0, 10, 10), truth(5, 0, 15, 10)
    assert mask_iou(first.mask, second.mask) == pytest.approx(50 / 150)
    assert box_iou(first.box, second.box) == pytest.approx(50 / 150)
    assert box_iou(first.box, truth(20, 0, 30, 10).box) == 0
    assert mask_iou(rectangle(0, 0, 0, 0), rectangle(0, 0, 0, 0)) == 0


def test_a_raw_mask_is_foreground_above_0_in_its_box_rounded_down() -> None:
    raw = np.full((64, 64), 0.2, np.float32)
    raw[:, :32] = -0.2
    mask = paste(raw, (0.26, 0.26, 0.99, 0.99), SIZE)  # pixels 10.4, 5.2, 39.6, 19.8
    assert mask is not None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (rows[0], rows[-1]) == (5, 18)
    assert columns[-1] == 38
    assert columns[0] == pytest.approx((10 + 39) / 2, abs=1)


def test_a_box_without_a_pixel_has_no_mask() -> None:
    assert paste(np.ones((64, 64), np.float32), (0.5, 0.5, 0.51, 0.9), SIZE) is None


@pytest.mark.parametrize(
    ("text", "task", "well_formed"),
    [
        ("", "segment", True),
        (LOCS + SEGS, "segment", True),
        (LOCS + " " + SEGS + " left cat", "segment", True),
        (f"{LOCS}{SEGS} ; {LOCS}{SEGS}", "segment", True),
        (LOCS + " cat", "detect", True),
        (LOCS, "segment", False),
        (LOCS, "detect", False),
        (LOCS + SEGS + "<seg001>", "segment", False),
        (LOCS[9:] + SEGS, "segment", False),
        (f"{LOCS}{SEGS} ; ", "segment", False),
    ],
)
def test_what_is_well_formed(text: str, task: str, well_formed: bool) -> None:
    assert is_well_formed(text, task) is well_formed


@pytest.mark.parametrize(("joined", "found"), [("", ""), (" ; ", ""), ("a ; ", "a"), (" ; a ;  ; b", "a ; b")])
def test_targets_that_the_server_found_nothing_for_are_no_malformed_answer(joined: str, found: str) -> None:
    assert without_empty_parts(joined) == found


def test_the_first_object_counts_where_one_is_meant() -> None:
    wrong, right = predicted(0, 0, 5, 5), predicted(10, 5, 30, 15)
    meant = [truth(10, 5, 30, 15)]
    assert score(Answer("", [right, wrong]), meant, "segment")[0].mask_iou == 1
    assert score(Answer("", [wrong, right]), meant, "segment")[0].mask_iou == 0


def test_several_objects_are_paired_as_fits_best() -> None:
    answer = Answer("", [predicted(20, 0, 30, 10), predicted(0, 0, 10, 10)])
    scores = score(answer, [truth(0, 0, 10, 10), truth(20, 0, 30, 10), truth(35, 0, 40, 20)], "segment")
    assert [each.mask_iou for each in scores] == [1, 1, 0]


def test_detect_is_scored_by_boxes() -> None:
    answer = Answer("", [Predicted(truth(0, 0, 10, 10).box, None)])
    (detected,) = score(answer, [truth(0, 0, 10, 10)], "detect")
    assert (detected.mask_iou, detected.box_iou) == (None, 1)
    (segmented,) = score(answer, [truth(0, 0, 10, 10)], "segment")
    assert (segmented.mask_iou, segmented.box_iou) == (0, 1)


def test_detect_counts_in_box_accuracy_alone() -> None:
    answer = Answer(LOCS + " thing", [Predicted(truth(0, 0, 10, 10).box, None)])
    meant = [truth(0, 0, 10, 10)]
    table = summarize([judge(case(meant, task="detect"), answer), judge(case(meant), Answer("", []))])
    assert (table["present"]["mean_iou"], table["present"]["box_accuracy_0.5"]) == (0, 0.5)


def test_the_table() -> None:
    found, nothing = Answer(LOCS + SEGS, [predicted(0, 0, 10, 10)]), Answer("", [])
    judged = [
        judge(case([truth(0, 0, 10, 10)]), found),
        judge(case([truth(0, 0, 20, 10, "everyday")], form="colour"), found),  # half of it
        judge(case([truth(0, 0, 2, 2)]), nothing),
        judge(case([], form="absent"), nothing),
        judge(case([], form="absent"), Answer(LOCS, [predicted(0, 0, 10, 10)])),
    ]
    table = summarize(judged)
    assert table["present"]["mean_iou"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert table["present"]["box_accuracy_0.5"] == pytest.approx(2 / 3)
    assert table["present"]["box_accuracy_0.75"] == pytest.approx(1 / 3)
    assert table["absent"] == {"cases": 2, "left_empty": 1, "recall": 0.5, "precision": 0.5}
    assert table["well_formed"] == pytest.approx(4 / 5)
    assert table["by_family"]["everyday"]["mean_iou"] == 0.5
    assert {name: row["objects"] for name, row in table["by_size"].items()} == {"small": 1, "large": 2}
    assert {name: row["objects"] for name, row in table["by_form"].items()} == {"name": 2, "colour": 1}


def test_a_sheet_shows_every_case() -> None:
    judged = [judge(made, Answer("", [])) for made in scene_cases(0, 7)]
    sheet = np.asarray(draw_sheet(judged))
    tiles = [sheet[:180, left : left + 240] for left in range(0, sheet.shape[1], 246)]
    assert sheet.shape[0] > 2 * 180
    assert all(len(np.unique(tile.reshape(-1, 3), axis=0)) > 20 for tile in tiles)


@pytest.mark.parametrize("drawn", [scene_cases, plain_cases])
def test_drawn_cases_stay_the_same_and_are_of_all_kinds(drawn: Any) -> None:
    cases = list(drawn(100, 24))
    again = list(drawn(100, 24))
    assert [each.prompt for each in cases] == [each.prompt for each in again]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(cases, again, strict=True))
    assert len({each.form for each in cases}) >= 3
    for each in cases:
        assert (each.form == "absent") == (not each.truths)
        assert all(found.mask.shape == each.image.size[::-1] for found in each.truths)


def write_pictures(folder: Path) -> None:
    for name in ("COCO_train2014_000000000001.jpg", "two.jpg"):
        Image.new("RGB", SIZE, "red").save(folder / name)


def annotation(number: int, image: int, category: int, box: list[int], **more: Any) -> dict[str, Any]:
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "segmentation": [polygon], **more}


def test_coco(tmp_path: Path) -> None:
    """One question for each category that a picture has one object of, and one for a category that it lacks."""
    write_pictures(tmp_path)
    content = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "bus"}],
        "images": [{"id": 1, "file_name": "COCO_train2014_000000000001.jpg"}, {"id": 2, "file_name": "two.jpg"}],
        "annotations": [
            annotation(1, 1, 1, [4, 2, 10, 6]),
            annotation(2, 1, 2, [0, 0, 5, 5]),
            annotation(3, 1, 2, [10, 0, 5, 5]),  # the second dog
            annotation(4, 2, 3, [0, 0, 8, 8], iscrowd=1),
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    cases = list(coco_cases(tmp_path / "instances.json", tmp_path))
    assert [(each.prompt, each.form) for each in cases] == [("segment cat", "category"), ("segment bus", "absent")]
    assert mask_iou(cases[0].truths[0].mask, rectangle(4, 2, 14, 8)) == 1
    assert cases[0].truths[0].box == (0.1, 0.1, 0.35, 0.4)


def refcoco_folder(folder: Path, references: Any) -> None:
    write_pictures(folder)
    uncompressed = {"size": [20, 40], "counts": [0, 20 * 10, 20 * 30]}  # column by column: the first ten
    annotations = [
        annotation(7, 1, 1, [4, 2, 10, 6]),
        annotation(8, 1, 1, [0, 0, 10, 20]) | {"segmentation": uncompressed},
    ]
    (folder / "instances.json").write_text(json.dumps({"annotations": annotations}))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references))


def test_refcoco(tmp_path: Path) -> None:
    def reference(ann_id: int, split: str, *sentences: str) -> dict[str, Any]:
        name = f"COCO_train2014_000000000001_{ann_id}.jpg"
        return {
            "ann_id": ann_id,
            "split": split,
            "file_name": name,
            "sentences": [{"sent": each} for each in sentences],
        }

    refcoco_folder(tmp_path, [reference(7, "val", "left cat", "the cat"), reference(8, "testA", "man")])
    cases = list(refcoco_cases(tmp_path, tmp_path, "val"))
    assert [each.prompt for each in cases] == ["segment left cat", "segment the cat"]
    assert mask_iou(cases[0].truths[0].mask, rectangle(4, 2, 14, 8)) == 1
    (man,) = refcoco_cases(tmp_path, tmp_path, "testA")
    assert mask_iou(man.truths[0].mask, rectangle(0, 0, 10, 20)) == 1


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    refcoco_folder(tmp_path, [Path("anything")])
    with pytest.raises(pickle.UnpicklingError, match="not plain data"):
        list(refcoco_cases(tmp_path, tmp_path, "val"))
