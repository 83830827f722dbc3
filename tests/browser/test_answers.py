"""What the page makes of an answer: the canvas, the list, the tokens, files to save and programs to copy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import requests
from PIL import Image, ImageChops
from playwright.sync_api import expect
from real_stack import Stack
from visits import Visit

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PROMPT = "blue star ; cyan ring"
STAR, RING, HOLE = (518 / 640, 300 / 480), (38 / 640, 303 / 480), (102 / 640, 303 / 480)
SIZE = (640, 480)
SAME = 0.98  # IoU of a mask and its outline, filled: they differ in pixels that the outline cuts


@pytest.fixture
def shapes(demo: Visit) -> Visit:
    """The page with the two shapes found."""
    demo.page.get_by_role("button", name="Sample: shapes").click()
    demo.page.get_by_role("button", name=PROMPT).click()
    return demo.answered()


def differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None


def colours_of(demo: Visit) -> list[str]:
    return [str(row.evaluate("(row) => row.style.getPropertyValue('--dot')")) for row in demo.rows.all()]


def pixel(path: Path, place: tuple[float, float]) -> Any:
    picture = Image.open(path)
    assert picture.size == SIZE
    return picture.getpixel((int(place[0] * SIZE[0]), int(place[1] * SIZE[1])))


def test_objects_come_one_by_one(demo: Visit) -> None:
    demo.page.evaluate(
        """() => {
          const [list, report] = ["objects", "report"].map((id) => document.getElementById(id));
          window.counts = [];
          new MutationObserver(() => window.counts.push([list.children.length, report.hidden]))
            .observe(list, { childList: true });
        }"""
    )
    demo.ask("penguin ; mushroom ; yellow apple ; watermelon")
    demo.answered()
    counts = demo.page.evaluate("window.counts")
    assert [count for count, _ in counts] == [1, 2, 3, 4]
    assert all(waits for _, waits in counts)  # each was there before the answer was whole


def test_an_object_has_the_same_colour_on_the_picture_and_in_the_list(shapes: Visit) -> None:
    colours = colours_of(shapes)
    assert len(set(colours)) == 2
    shapes["opacity"].fill("100")
    drawing, canvas = shapes.drawing(), shapes["canvas"].bounding_box()
    assert canvas is not None
    places = {"blue star": STAR, "cyan ring": RING}
    for label, colour in zip(shapes.labels, colours, strict=True):
        x, y = shapes.at(*places[label])
        assert drawing.getpixel((round(x - canvas["x"]), round(y - canvas["y"]))) == tuple(bytes.fromhex(colour[1:]))


def test_a_label_keeps_its_colour(demo: Visit) -> None:
    demo.ask("penguin ; mushroom ; yellow apple ; watermelon")
    demo.answered()
    colours = dict(zip(demo.labels, colours_of(demo), strict=True))
    for label in ("watermelon", "penguin"):
        demo.ask(label)
        demo.answered()
        assert colours_of(demo) == [colours[label]]


def test_pointing_at_a_row_shows_its_object_alone(shapes: Visit) -> None:
    before = shapes.drawing()
    shapes.rows.first.hover()
    assert differ(before, shapes.drawing())
    expect(shapes.page.locator("#objects li.isolated")).to_have_count(1)
    shapes["prompt"].hover()
    expect(shapes.page.locator("#objects li.isolated")).to_have_count(0)
    assert not differ(before, shapes.drawing())


def test_a_click_on_a_row_takes_its_object_off(shapes: Visit) -> None:
    shapes.rows.first.click()
    expect(shapes.rows.first).to_have_attribute("aria-pressed", "false")
    shapes["prompt"].hover()
    without = shapes.drawing()
    shapes.rows.first.click()
    expect(shapes.rows.first).to_have_attribute("aria-pressed", "true")
    shapes["prompt"].hover()
    assert differ(without, shapes.drawing())


def test_pointing_at_the_picture_names_the_object(shapes: Visit) -> None:
    shapes.page.mouse.move(*shapes.at(*STAR))
    expect(shapes["hover-tag"]).to_contain_text("blue star")
    shapes.page.mouse.move(*shapes.at(*HOLE))  # belongs to nothing, though it is within the ring's box
    expect(shapes["hover-tag"]).to_be_hidden()


def test_a_layer_is_switched_off(shapes: Visit) -> None:
    for switch in ("masks", "boxes", "labels"):
        before = shapes.drawing()
        shapes[switch].uncheck()
        assert differ(before, shapes.drawing()), switch


def test_the_picture_is_magnified_and_moved(shapes: Visit) -> None:
    before = shapes.drawing()
    shapes["zoom-in"].click()
    expect(shapes["zoom-level"]).to_have_text("140 %")
    shapes.page.mouse.move(*shapes.at(0.5, 0.5))
    magnified = shapes.drawing()
    shapes.page.mouse.down()
    shapes.page.mouse.move(*shapes.at(0.5, 0.3))
    shapes.page.mouse.up()
    assert differ(magnified, shapes.drawing())
    shapes["zoom-fit"].click()
    expect(shapes["zoom-level"]).to_have_text("100 %")
    shapes["prompt"].hover()
    assert not differ(before, shapes.drawing())


def test_tokens_are_explained(shapes: Visit) -> None:
    tokens = shapes.page.locator("#tokens .token")
    expect(tokens).to_have_count(2 * (4 + 16))
    tokens.nth(1).hover()
    expect(shapes["explanation"]).to_contain_text("x_min, the left edge")
    expect(shapes.page.locator("#objects li.isolated .label")).to_have_text("blue star")
    tokens.nth(4 + 15).hover()
    expect(shapes["explanation"]).to_contain_text("Code 16 of the mask's 16")


def test_times_model_and_request_are_told(shapes: Visit) -> None:
    for phase in ("receive", "inference", "encode", "in all"):
        expect(shapes["timings"]).to_contain_text(phase)
    expect(shapes["answered-by"]).to_contain_text("paligemma2-demo-224")
    assert len(shapes["request-id"].inner_text()) == 32


def test_what_is_not_there_is_told(demo: Visit) -> None:
    demo.ask("red car ; penguin")
    demo.answered()
    expect(demo["remarks"]).to_have_text("“red car” was not found.")


def test_a_prompt_can_be_asked_again(demo: Visit) -> None:
    demo.ask("watermelon")
    demo.answered()
    demo.page.reload()
    demo.page.wait_for_selector("body.ready")
    demo["recent"].get_by_role("button", name="watermelon").click()
    demo.answered()
    assert demo.labels == ["watermelon"]
    demo["forget"].click()
    expect(demo["history"]).to_be_hidden()


def test_the_mask_is_saved(shapes: Visit, stack: Stack, tmp_path: Path) -> None:
    saved = shapes.save("mask", tmp_path)
    assert saved.name == "sample-mask.png"
    assert [pixel(saved, place)[:3] for place in (STAR, RING, HOLE)] == [(255,) * 3, (255,) * 3, (0,) * 3]
    picture = np.asarray(Image.open(saved).convert("L")) > 127
    served = requests.post(
        f"{stack.url}/segment",
        data={"prompt": PROMPT, "mask_format": "rle", "coordinate_space": "original", "return_image": "false"},
        files={"image_file": (DOCS / "sample.png").read_bytes()},
        timeout=60,
    ).json()
    own = np.any([pycocotools.mask.decode(found["mask"]) for found in served["masks"]], axis=0)
    assert (picture & own).sum() / (picture | own).sum() > SAME


def test_the_cut_out_is_transparent_around_what_is_shown(shapes: Visit, tmp_path: Path) -> None:
    shapes.rows.filter(has_text="cyan ring").click()  # hides it
    saved = shapes.save("cutout", tmp_path)
    assert pixel(saved, STAR) == (*pixel(DOCS / "sample.png", STAR), 255)
    assert pixel(saved, RING)[3] == 0


def test_the_overlay_is_saved(shapes: Visit, tmp_path: Path) -> None:
    saved = shapes.save("overlay", tmp_path)
    original = Image.open(DOCS / "sample.png")
    assert pixel(saved, STAR)[:3] != original.getpixel((518, 300))
    assert pixel(saved, (0.5, 0.95))[:3] == original.getpixel((320, 456))


def test_the_answer_is_saved_as_it_came(shapes: Visit, tmp_path: Path) -> None:
    answer = json.loads(shapes.save("json", tmp_path).read_text())
    assert [found["label"] for found in answer["masks"]] == ["blue star", "cyan ring"]
    assert answer["request_id"] == shapes["request-id"].inner_text()
    assert answer["text"].startswith("<loc")


def test_the_answer_is_saved_for_coco_tools(shapes: Visit, tmp_path: Path) -> None:
    data = json.loads(shapes.save("coco", tmp_path).read_text())
    assert data["images"] == [{"id": 1, "file_name": "sample.png", "width": 640, "height": 480}]
    names = {category["id"]: category["name"] for category in data["categories"]}
    places = {"blue star": STAR, "cyan ring": RING}
    for found in data["annotations"]:
        mask = pycocotools.mask.decode(found["segmentation"])
        x, y = places[names[found["category_id"]]]
        assert mask[int(y * 480), int(x * 640)] == 1
        assert mask[int(HOLE[1] * 480), int(HOLE[0] * 640)] == 0
        assert found["area"] == mask.sum()
        box = pycocotools.mask.toBbox(found["segmentation"])
        assert np.allclose(box, found["bbox"], atol=12)  # the mask fills its box, nearly


@pytest.mark.parametrize(("language", "command"), [("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])])
def test_the_request_is_copied_as_a_program_that_runs(
    shapes: Visit, tmp_path: Path, language: str, command: list[str]
) -> None:
    shapes.page.get_by_label(language, exact=True).check()
    shapes["copy"].click()
    expect(shapes["copy"]).to_have_text("Copied")
    program = shapes.page.evaluate("navigator.clipboard.readText()")
    (tmp_path / "sample.png").write_bytes((DOCS / "sample.png").read_bytes())
    ran = subprocess.run([*command, program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "blue star" in ran.stdout and "cyan ring" in ran.stdout


def test_the_request_is_a_program_for_pages_too(shapes: Visit) -> None:
    """It is not run: the page's policy forbids code made of text, as it should."""
    shapes.page.get_by_label("JavaScript", exact=True).check()
    expect(shapes["snippet"]).to_contain_text(f'form.set("prompt", "{PROMPT}");')
    expect(shapes["snippet"]).to_contain_text("/segment")


def test_the_program_asks_what_was_answered(shapes: Visit) -> None:
    shapes["prompt"].fill("something else")
    shapes.page.get_by_label("JavaScript", exact=True).check()
    expect(shapes["snippet"]).to_contain_text(f'form.set("prompt", "{PROMPT}");')


def test_the_demo_model_is_named(demo: Visit) -> None:
    expect(demo["demo-notice"]).to_contain_text("This is the small demo model.")
    demo["demo-notice"].locator("summary").click()
    expect(demo["demo-notice"]).to_contain_text("docs/guides/checkpoints.md")
    demo["model"].select_option("another")
    demo["other-model"].fill("google/paligemma2-3b-mix-448")
    expect(demo["demo-notice"]).to_be_hidden()
