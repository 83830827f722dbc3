"""The parts of Label Studio's dialect: the labelling interface, its run lengths, its regions."""

import base64
import io
import json

import numpy as np
import pytest
from label_studio_site import RING
from PIL import Image
from run_lengths import decoded
from stack import REPOSITORY

from gateway.answers.masks import paste_mask
from gateway.answers.segmentation import Segmentation, SegmentedObject
from gateway.answers.spaces import Space
from gateway.dialects.label_studio.interface import (
    KINDS,
    MAX_INTERFACE_CHARACTERS,
    Control,
    read_interface,
    split_targets,
)
from gateway.dialects.label_studio.regions import regions_of
from gateway.dialects.label_studio.run_lengths import encode_mask
from gateway.errors import ApiError

BOMB = '<!DOCTYPE v [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
IMAGE = '<Image name="i" value="$picture"/>'
LABEL = '<RectangleLabels name="r" toName="i"><Label value="cat"/></RectangleLabels>'
UNSURE = LABEL.replace(" toName", ' model_score_threshold="high" toName')
HEIGHT, WIDTH = 480, 640
BOX = (0.1, 0.2, 0.6, 0.9)


def test_an_interface() -> None:
    interface = read_interface(
        f"""<?xml version="1.0" encoding="utf-16"?>
        <View><Header value="Label it"/>{IMAGE}
          <rectanglelabels name="r" toName="i" model_score_threshold="0.3">
            <Label value="cat" prompt="tabby cat; black  cat" alias="CAT"/><Label value="dog" background="red"/>
          </rectanglelabels>
          <BrushLabels name="b" toName="i"><View><Label value="dog"/></View></BrushLabels><Label value="x"/>
          <PolygonLabels name="other" toName="second"><Label value="dog"/></PolygonLabels>
          <Choices name="c" toName="i"><Choice value="x"/></Choices><TextArea name="prompt" toName="i"/>
        </View>"""
    )
    assert (interface.image_name, interface.image_field) == ("i", "picture")
    rectangles, brush = interface.controls
    assert (rectangles.kind, rectangles.min_score, brush.kind, brush.min_score) == (
        "rectanglelabels",
        0.3,
        "brushlabels",
        0,
    )
    assert interface.targets == ["tabby cat", "black cat", "dog"]
    assert [rectangles.label_of(target) for target in interface.targets] == ["CAT", "CAT", "dog"]
    assert [brush.label_of(target) for target in interface.targets] == [None, None, "dog"]
    assert [rectangles.label_named(words) for words in ("Black Cat", "DOG", "hat")] == ["CAT", "dog", "CAT"]


@pytest.mark.parametrize(
    ("xml", "fault"),
    [
        ("", "not XML"),
        ("<View>", "not XML"),
        (f"{BOMB}<View>&b;{IMAGE}{LABEL}</View>", "DOCTYPE"),
        (f'<!DOCTYPE v SYSTEM "file:///etc/passwd"><View>{IMAGE}{LABEL}</View>', "DOCTYPE"),
        (f"<View>&lol;{IMAGE}{LABEL}</View>", "not XML"),
        ("<View/>", "none of RectangleLabels"),
        (f'<View>{IMAGE}<RectangleLabels name="r" toName="i"/></View>', "none of RectangleLabels"),
        (f"<View>{LABEL}</View>", "no Image"),
        (f'<View><Image name="i" value="http://a/b.png"/>{LABEL}</View>', "no Image"),
        (f"<View>{IMAGE}{UNSURE}</View>", "no number"),
        (f"<View>{IMAGE}{UNSURE.replace('high', 'nan')}</View>", "no number"),
        (f"<View>{IMAGE}{UNSURE.replace('high', '-inf')}</View>", "no number"),
        (f"<View>{IMAGE}{LABEL}{' ' * MAX_INTERFACE_CHARACTERS}</View>", "characters"),
    ],
)
def test_an_interface_that_cannot_be_used(xml: str, fault: str) -> None:
    with pytest.raises(ApiError, match=fault) as refused:
        read_interface(xml)
    assert refused.value.code == "invalid_request"


def test_deeply_nested_tags_are_read_without_recursion() -> None:
    assert read_interface(f"{'<View>' * 50_000}{IMAGE}{LABEL}{'</View>' * 50_000}").targets == ["cat"]


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ("red hat", ("red hat",)),
        (" Segment  red hat;dog; ;dog", ("red hat", "dog")),
        ("segment", ("segment",)),
        (" ; ", ()),
    ],
)
def test_targets_of_words(words: str, targets: tuple[str, ...]) -> None:
    assert split_targets(words) == targets


def test_run_lengths_are_those_that_label_studio_reads() -> None:
    """Its own encoder's answer, and ours, hold the same mask."""
    golden = json.loads((REPOSITORY / "tests" / "data" / "label_studio_rle.json").read_text())
    mask = np.array([[pixel == "#" for pixel in row] for row in golden["mask"]])
    assert np.array_equal(decoded(golden["rle"], mask.shape), mask)
    assert np.array_equal(decoded(encode_mask(mask), mask.shape), mask)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (150, 200), (400, 500)])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.5, 1.0])
def test_run_lengths_of_any_mask(shape: tuple[int, int], share: float) -> None:
    """Runs of all lengths, also such as do not fit into one."""
    mask = np.random.default_rng(0).random(shape) < share
    mask[: shape[0] // 2] = share == 1.0
    assert np.array_equal(decoded(encode_mask(mask), shape), mask)


def regions(kind: str, logits: np.ndarray | None) -> list[dict[str, object]]:
    found = SegmentedObject(BOX, "cat", 0.91234, logits, 0.8)
    seen = Segmentation([found], [], "", np.zeros((224, 224, 3), np.uint8), (HEIGHT, WIDTH))
    return [dict(region["value"]) for region in regions_of(found, "cat", Control("n", kind, "i", 0.0), seen)]


def true_mask(logits: np.ndarray) -> np.ndarray:
    return paste_mask(logits, Space(WIDTH, HEIGHT).pixel_box(BOX), width=WIDTH, height=HEIGHT)


def filled(points: object) -> np.ndarray:
    """A polygon in percent, drawn by the even-odd rule at four times the size."""
    assert isinstance(points, list)
    image = Image.new("L", (4 * WIDTH, 4 * HEIGHT))
    rows = np.array([(x * WIDTH / 25, y * HEIGHT / 25) for x, y in points])
    for start, end in zip(rows, np.roll(rows, -1, axis=0), strict=True):
        _toggle(image, start, end)
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)) > 127


def _toggle(image: Image.Image, start: np.ndarray, end: np.ndarray) -> None:
    """Turns over what is to the right of an edge."""
    pixels = np.asarray(image).copy()
    (x_0, y_0), (x_1, y_1) = (start, end) if start[1] <= end[1] else (end, start)
    for y in range(max(0, int(np.ceil(y_0 - 0.5))), min(image.height, int(np.ceil(y_1 - 0.5)))):
        x = x_0 + (y + 0.5 - y_0) / (y_1 - y_0) * (x_1 - x_0)
        pixels[y, max(0, int(np.ceil(x - 0.5))) :] ^= 255
    image.paste(Image.fromarray(pixels))


def test_a_polygon_keeps_its_hole() -> None:
    logits = RING
    (value,) = regions("polygonlabels", logits)
    assert (value["closed"], value["polygonlabels"]) == (True, ["cat"])
    points = value["points"]
    assert isinstance(points, list) and len(points) < 100
    drawn, mask = filled(points), true_mask(logits)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.98
    assert not drawn[int(0.55 * HEIGHT), int(0.35 * WIDTH)]  # the hole's middle


def test_a_polygon_for_each_part() -> None:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    two = (0.2 - np.minimum(np.hypot(x - 0.6, y), np.hypot(x + 0.6, y))).astype(np.float32)
    assert len(regions("polygonlabels", two)) == 2
    assert len(regions("brushlabels", two)) == 1


def test_a_bitmask_is_opaque_where_the_object_is() -> None:
    """The editor reads its opacity alone."""
    logits = RING
    (value,) = regions("bitmasklabels", logits)
    head, _, content = str(value["imageDataURL"]).partition(",")
    assert head == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))
    mask = true_mask(logits)
    assert np.array_equal(pixels[:, :, 3], np.where(mask, 255, 0))
    assert not pixels[mask][:, :3].any()


def test_a_rectangle_is_the_box() -> None:
    assert regions("rectanglelabels", None) == [
        {"x": 10.0, "y": 20.0, "width": 50.0, "height": 70.0, "rotation": 0, "rectanglelabels": ["cat"]}
    ]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rectanglelabels"])
def test_an_object_without_a_mask_has_no_region_but_its_box(kind: str) -> None:
    assert regions(kind, None) == []
