"""The gateway's small parts."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from stack import REPOSITORY

from gateway.answers.encoding import encode_png, pixel_coordinates, soft_mask
from gateway.answers.masks import paste_mask
from gateway.answers.overlay import draw_overlay
from gateway.answers.segmentation import SegmentedObject
from gateway.inputs.prompts import with_task
from gateway.settings import Settings


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("left wheel", "segment left wheel"),
        ("segment cat", "segment cat"),
        ("Detect cat", "Detect cat"),
        ("caption en", "caption en"),
        ("ocr", "ocr"),
        ("answer en why?", "answer en why?"),
        ("segmented worm", "segment segmented worm"),
        ("", ""),
    ],
)
def test_the_task_word_is_added_where_it_is_missing(prompt: str, expected: str) -> None:
    assert with_task(prompt) == expected


def test_soft_masks_are_gray_levels() -> None:
    logits = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]], np.float32)
    assert soft_mask(logits).tolist() == [[0, 0, 128, 255, 255]]


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 64), (1, 1, 3), (3, 2, 3), (224, 224, 3), (5, 40_000, 3)])
def test_a_png_holds_the_pixels(shape: tuple[int, ...]) -> None:
    """Noise, whose differences wrap around, and a scene; strict readers check sums and sizes."""
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for pixels in (noise, np.full(shape, 255, np.uint8), noise // 2 + 100):
        picture = Image.open(io.BytesIO(encode_png(pixels)))
        picture.verify()
        reopened = Image.open(io.BytesIO(encode_png(pixels)))
        assert (reopened.format, reopened.mode) == ("PNG", "L" if len(shape) == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(reopened), pixels)


def test_coordinates_are_rounded_pixels() -> None:
    assert pixel_coordinates((0.0, 0.1, 1.0, 0.999), width=200, height=100) == [0, 10, 200, 100]


def test_a_mask_is_pasted_into_its_box_only() -> None:
    pasted = paste_mask(np.ones((64, 64), np.float32), [10, 5, 30, 15], width=40, height=20)
    assert pasted.sum() == 20 * 10
    assert pasted[5:15, 10:30].all()


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [0, 0, 0, 0]])
def test_an_empty_box_has_no_mask(box: list[int]) -> None:
    assert not paste_mask(np.ones((64, 64), np.float32), box, width=10, height=10).any()


def test_the_raw_mask_is_resized_before_the_threshold() -> None:
    """As in the published protocol: a faint half stays background although its neighbour is strong."""
    logits = np.full((64, 64), -0.1, np.float32)
    logits[:, :32] = 1.0
    pasted = paste_mask(logits, [0, 0, 8, 8], width=8, height=8)
    assert pasted[:, :4].all() and not pasted[:, 5:].any()


def found_at(box: tuple[float, float, float, float], *, mask: bool = True) -> SegmentedObject:
    return SegmentedObject(box, "a label that is long", 0.5, np.ones((64, 64), np.float32) if mask else None, 0.5)


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 1.0, 1.0), (0.9, 0.9, 1.0, 1.0), (0.0, 0.0, 0.001, 0.001), (0.4, 0.0, 0.6, 0.2)]
)
@pytest.mark.parametrize("mask", [True, False])
def test_an_overlay_can_be_drawn_anywhere(box: tuple[float, float, float, float], mask: bool) -> None:
    picture = np.full((224, 224, 3), 200, np.uint8)
    drawn = draw_overlay(picture, [found_at(box, mask=mask)])
    assert (drawn.shape, drawn.dtype) == (picture.shape, np.uint8)
    assert (drawn != picture).any()
    assert (picture == 200).all()


def test_without_objects_the_overlay_is_the_picture() -> None:
    picture = np.full((8, 8, 3), 7, np.uint8)
    np.testing.assert_array_equal(draw_overlay(picture, []), picture)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "9000")
    monkeypatch.setenv("MAX_IMAGE_BYTES", "")
    settings = Settings()
    assert (settings.gateway_port, settings.max_image_bytes) == (9000, 20_000_000)


def test_the_gateway_stays_light() -> None:
    """Its process pulls in neither torch nor jax nor the models' packages."""
    heavy = "torch|jax|flax|transformers|paligemma_engine|mask_vae"
    code = f"import sys, gateway.app; print([name for name in '{heavy}'.split('|') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
