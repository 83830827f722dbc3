"""What is made of answers: outlines, drawings, tiles, and other libraries' types."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from paligemma_client import FoundObject, Result, masks
from paligemma_client.drawing import cut_out
from paligemma_client.outlines import joined, rings_of, signed_area, simplify
from paligemma_client.pictures import encode_png
from paligemma_client.questions import prompts_of
from paligemma_client.tiling import cut_tiles, merge_tiles

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def fill(rings: list[NDArray[np.int64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centres are inside an odd number of rings; an independent way back."""
    filled = np.zeros(shape, np.bool_)
    centres_x = np.arange(shape[1]) + 0.5
    for ring in rings:
        for (x, y), (next_x, next_y) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if x == next_x:
                filled[min(y, next_y) : max(y, next_y)] ^= centres_x > x
    return filled


grids = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda cells: np.array(cells, np.bool_).reshape(shape)
    )
)


@given(grids)
def test_rings_enclose_exactly_the_masks_pixels(mask: NDArray[np.bool_]) -> None:
    rings = rings_of(mask)
    assert np.array_equal(fill(rings, mask.shape), mask)
    assert sum(signed_area(ring) for ring in rings) == mask.sum()


def test_pixels_that_touch_at_a_corner_are_two_rings() -> None:
    assert len(rings_of(np.eye(2, dtype=np.bool_))) == 2


def test_a_hole_runs_the_other_way() -> None:
    mask = np.ones((5, 5), np.bool_)
    mask[2, 2] = False
    assert sorted(signed_area(ring) for ring in rings_of(mask)) == [-1, 25]


def test_simplified_rings_have_few_points_and_stay_near() -> None:
    image = Image.new("1", (200, 200))
    ImageDraw.Draw(image).polygon([(20, 30), (180, 60), (90, 190)], fill=1)
    mask = np.asarray(image)
    (exact,), (few,) = rings_of(mask), rings_of(mask, tolerance_px=1.5)
    assert len(few) < 12 < len(exact)
    assert abs(signed_area(few) - mask.sum()) < 0.03 * mask.sum()


def test_a_single_pixel_survives_simplification() -> None:
    (ring,) = rings_of(np.ones((1, 1), np.bool_), tolerance_px=5.0)
    assert np.array_equal(simplify(ring, 5.0), ring)
    assert signed_area(ring) == 1


def test_two_parts_become_one_ring_of_the_same_area() -> None:
    mask = np.zeros((10, 10), np.bool_)
    mask[1:4, 1:4] = mask[6:9, 5:9] = True
    ring = joined(rings_of(mask))
    assert signed_area(ring) == mask.sum()


def found_object(mask: NDArray[np.bool_], label: str = "cat", score: float = 0.9) -> FoundObject:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return FoundObject(label=label, score=score, box_xyxy=box, mask_score=0.5, run_lengths=masks.encode(mask))


def block(shape: tuple[int, int], x: slice, y: slice) -> NDArray[np.bool_]:
    mask = np.zeros(shape, np.bool_)
    mask[y, x] = True
    return mask


def test_a_mask_is_drawn_where_it_is() -> None:
    mask = block((60, 80), slice(40, 50), slice(40, 50))
    picture = encode_png(Image.new("RGB", (80, 60), "white"))
    drawn = np.asarray(Result(objects=[found_object(mask)], width=80, height=60, picture=picture).draw())
    assert drawn.shape == (60, 80, 3)
    assert (drawn[mask] != 255).any(axis=1).all()
    assert (drawn[52:, :] == 255).all()


def test_a_cut_out_is_transparent_beside_the_mask() -> None:
    mask = block((20, 20), slice(5, 10), slice(5, 10))
    mask[5, 5] = False
    cut = cut_out(Image.new("RGB", (20, 20), "red"), found_object(mask))
    assert (cut.size, cut.mode) == ((5, 5), "RGBA")
    assert np.array_equal(np.asarray(cut)[:, :, 3] > 0, mask[5:10, 5:10])


@pytest.mark.parametrize("tiles", ["2x2", "3x1", "1x1", "auto"])
def test_cuts_cover_the_picture_and_overlap(tiles: str) -> None:
    picture = encode_png(Image.new("RGB", (301, 200)))
    covered = np.zeros((200, 301), np.int64)
    for tile in cut_tiles(picture, tiles):
        x_min, y_min, x_max, y_max = tile.box
        covered[y_min:y_max, x_min:x_max] += 1
    assert covered.min() == 1
    assert (covered.max() > 1) == (tiles in {"2x2", "3x1"})


@pytest.mark.parametrize("tiles", ["9x1", "2", "2x", "big", ""])
def test_a_grid_that_is_none(tiles: str) -> None:
    with pytest.raises(ValueError, match="tiles must be"):
        cut_tiles(encode_png(Image.new("RGB", (8, 8))), tiles)


def test_large_pictures_are_cut_to_what_the_model_can_see() -> None:
    tiles = cut_tiles(encode_png(Image.new("RGB", (2600, 900))), "auto")
    assert len(tiles) == 3
    assert all(tile.box[2] - tile.box[0] <= 1024 for tile in tiles)


def test_what_cuts_divide_is_put_together_again() -> None:
    """One object across all four cuts, one seen whole by two, and one of each cut alone."""
    whole = {
        "bar": block((100, 100), slice(10, 90), slice(45, 55)),
        "dot": block((100, 100), slice(47, 53), slice(5, 11)),
        "far": block((100, 100), slice(90, 95), slice(90, 95)),
    }
    picture = encode_png(Image.new("RGB", (100, 100)))
    tiles = cut_tiles(picture, "2x2")
    answers = []
    for tile in tiles:
        x_min, y_min, x_max, y_max = tile.box
        seen = {label: mask[y_min:y_max, x_min:x_max] for label, mask in whole.items()}
        objects = [found_object(mask, label) for label, mask in seen.items() if mask.any()]
        answers.append(Result(objects=objects, width=x_max - x_min, height=y_max - y_min))
    merged = merge_tiles(tiles, answers, picture=picture)
    assert (merged.width, merged.height, merged.picture) == (100, 100, picture)
    assert sorted(found.label for found in merged.objects) == ["bar", "dot", "far"]
    for found in merged.objects:
        assert found.mask is not None and np.array_equal(found.mask, whole[found.label])
        assert found.box_xyxy == found_object(whole[found.label]).box_xyxy


def test_neighbours_of_one_kind_stay_two() -> None:
    tiles = cut_tiles(encode_png(Image.new("RGB", (100, 50))), "2x1")
    objects = [
        [found_object(block((50, tile.box[2] - tile.box[0]), slice(start, start + 5), slice(10, 15)))]
        for tile, start in zip(tiles, (48, 0), strict=True)
    ]
    answers = [Result(objects=found, width=1, height=1) for found in objects]
    assert len(merge_tiles(tiles, answers, picture=b"").objects) == 2


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("left wheel", ["segment left wheel"]),
        ("segment a ; b", ["segment a ; b"]),
        ("DETECT a", ["detect a"]),
        (["a", "segment b"], ["segment a ; b"]),
        (["a", "detect b", "detect c", "d"], ["segment a", "detect b ; c", "segment d"]),
        ("segmented orange", ["segment segmented orange"]),
    ],
)
def test_prompts(prompt: str | list[str], prompts: list[str]) -> None:
    assert prompts_of("segment", prompt) == prompts


MASK = block((20, 30), slice(6, 12), slice(5, 15))
RESULT = Result(
    objects=[found_object(MASK), FoundObject(label="dog", score=0.25, box_xyxy=(0, 0, 3, 4))], width=30, height=20
)


def test_coco_annotations() -> None:
    cat, dog = RESULT.to_coco(image_id=7, category_ids={"cat": 1, "dog": 2}, first_id=10)
    assert (cat["id"], cat["image_id"], cat["category_id"], cat["iscrowd"]) == (10, 7, 1, 0)
    assert (cat["bbox"], cat["area"], cat["score"]) == ([6, 5, 6, 10], 60, 0.9)
    assert np.array_equal(masks.decode(cat["segmentation"]), MASK)
    assert (dog["id"], dog["bbox"], dog["segmentation"]) == (11, [0, 0, 3, 4], [])


def test_supervision_detections() -> None:
    """In a process of its own: scripts/ has a package of the same name."""
    program = """
import json, numpy as np
from paligemma_client import FoundObject, Result, masks
mask = np.zeros((20, 30), bool); mask[5:15, 6:12] = True
cat = FoundObject(label="cat", score=0.9, box_xyxy=(6, 5, 12, 15), mask_score=0.5, run_lengths=masks.encode(mask))
dog = FoundObject(label="dog", score=0.25, box_xyxy=(0, 0, 3, 4))
found = Result(objects=[cat, dog, cat], width=30, height=20).to_supervision()
assert np.array_equal(found.mask[0], mask) and not found.mask[1].any()
assert len(Result(objects=[], width=3, height=2).to_supervision()) == 0
print(json.dumps([found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist(), list(found["class_name"])]))
"""
    environment = {"PYTHONPATH": str(REPOSITORY / "client"), "PYTHONWARNINGS": "ignore", "MPLCONFIGDIR": "/tmp"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
    boxes, scores, ids, names = json.loads(done.stdout)
    assert boxes == [[6, 5, 12, 15], [0, 0, 3, 4], [6, 5, 12, 15]]
    assert (scores, ids, names) == (pytest.approx([0.9, 0.25, 0.9]), [0, 1, 0], ["cat", "dog", "cat"])


def test_fiftyone_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    fiftyone = ModuleType("fiftyone")
    fiftyone.Detection = fiftyone.Detections = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone)
    cat, dog = RESULT.to_fiftyone().detections
    assert (cat.label, cat.confidence, cat.bounding_box) == ("cat", 0.9, pytest.approx([0.2, 0.25, 0.2, 0.5]))
    assert np.array_equal(cat.mask, MASK[5:15, 6:12])
    assert dog.mask is None


def test_other_libraries_are_imported_only_when_asked_for() -> None:
    names = ("fiftyone", "supervision", "torch", "tritonclient")
    program = f"import sys, paligemma_client; print([name for name in {names} if name in sys.modules])"
    environment = {"PYTHONPATH": str(REPOSITORY / "client")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
