"""Pictures of the page for README and documentation; SCREENSHOTS=docs writes them there, else nobody keeps them."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect
from real_stack import Stack
from visits import Visit

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROMPT = "penguin ; mushroom ; yellow apple ; watermelon"
OBJECTS = 4
MOST_BYTES = 1_000_000
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}

# Passes the stream's events on one by one, each when the test says so.
STEP_BY_STEP = """
const fetched = window.fetch;
window.fetch = async (path, options) => {
  const response = await fetched(path, options);
  if (path !== "segment/stream") return response;
  const events = (await response.text()).split(/(?<=\\n\\n)/);
  let controller;
  const body = new ReadableStream({ start(made) { controller = made; } });
  window.step = () => {
    const event = events.shift();
    if (event) controller.enqueue(new TextEncoder().encode(event));
    else controller.close();
  };
  window.steps = events.length;
  return new Response(body, response);
};
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return REPOSITORY / "docs" if os.environ.get("SCREENSHOTS") == "docs" else tmp_path


def shot(demo: Visit) -> Image.Image:
    """The window, with nothing moving and no pointer over the picture."""
    demo.page.mouse.move(2, 2)
    demo.drawing()  # waits for the frame
    return Image.open(io.BytesIO(demo.page.screenshot(animations="disabled"))).convert("RGB")


@pytest.mark.parametrize(
    ("name", "options"),
    [("page_light", DESK), ("page_dark", {**DESK, "color_scheme": "dark"}), ("page_phone", PHONE)],
)
def test_a_picture_of_the_page(
    stack: Stack, visit: Callable[..., Visit], folder: Path, name: str, options: dict[str, Any]
) -> None:
    demo = visit(stack.url, **options).open()
    demo.ask(PROMPT)
    demo.answered()
    path = folder / f"{name}.webp"
    shot(demo).save(path, quality=86, method=6)
    assert path.stat().st_size < MOST_BYTES


def test_a_moving_picture_of_a_streamed_answer(stack: Stack, visit: Callable[..., Visit], folder: Path) -> None:
    demo = visit(stack.url, viewport={"width": 1120, "height": 760})
    demo.page.add_init_script(STEP_BY_STEP)
    demo.open()
    frames = [(shot(demo), 900)]
    demo["prompt"].fill(PROMPT)
    frames.append((shot(demo), 900))
    demo["prompt"].press("Enter")
    demo.page.wait_for_function("() => window.steps > 0")
    demo.page.evaluate("window.step()")  # accepted
    for count in range(1, OBJECTS + 1):
        demo.page.evaluate("window.step()")
        expect(demo.rows).to_have_count(count)
        frames.append((shot(demo), 600))
    demo.page.evaluate("window.step()")  # done
    demo.answered()
    frames.append((shot(demo), 1400))
    demo.rows.filter(has_text="watermelon").hover()
    frames.append((Image.open(io.BytesIO(demo.page.screenshot(animations="disabled"))).convert("RGB"), 1600))
    pictures, milliseconds = zip(*frames, strict=True)
    path = folder / "page.webp"
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=list(milliseconds), loop=0, quality=80, method=4
    )
    assert path.stat().st_size < MOST_BYTES
