"""Every way in which a picture comes to the page."""

import base64
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Route, expect
from visits import Visit

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
STAR = (518 / 640, 300 / 480)  # a place in the star of sample.png
BLUE = (37, 90, 214)
NEAR = 4  # of 255: the picture is scaled to the stage

GIVE = """
([event, name, type, encoded]) => {
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  document.body.dispatchEvent(event === "drop"
    ? new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data })
    : new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: data }));
}
"""


def give(demo: Visit, event: str, path: Path, content_type: str = "image/png") -> None:
    demo.page.evaluate(GIVE, [event, path.name, content_type, base64.b64encode(path.read_bytes()).decode()])


def shows_the_sample(demo: Visit, name: str) -> None:
    """The picture is on the canvas, and the star is found on it."""
    expect(demo.page.get_by_role("img", name=name)).to_be_visible()
    demo.ask("blue star")
    demo.answered()
    assert demo.labels == ["blue star"]
    demo["masks"].uncheck()
    demo["labels"].uncheck()
    canvas = demo["canvas"].bounding_box()
    x, y = demo.at(*STAR)
    assert canvas is not None
    shown = demo.drawing().getpixel((round(x - canvas["x"]), round(y - canvas["y"])))
    assert isinstance(shown, tuple)
    assert all(abs(one - other) <= NEAR for one, other in zip(shown, BLUE, strict=True))


def test_a_file_is_chosen(demo: Visit) -> None:
    with demo.page.expect_file_chooser() as chooser:
        demo["open-file"].click()
    chooser.value.set_files(DOCS / "sample.png")
    shows_the_sample(demo, "sample.png")


def test_a_file_is_dropped(demo: Visit) -> None:
    give(demo, "drop", DOCS / "sample.png")
    shows_the_sample(demo, "sample.png")


def test_a_picture_is_pasted(demo: Visit) -> None:
    give(demo, "paste", DOCS / "sample.png")
    shows_the_sample(demo, "sample.png")


def test_a_sample_has_prompts_for_one_click(demo: Visit) -> None:
    demo.page.get_by_role("button", name="Sample: shapes").click()
    demo.page.get_by_role("button", name="blue star ; cyan ring").click()
    demo.answered()
    assert sorted(demo.labels) == ["blue star", "cyan ring"]
    expect(demo["prompt"]).to_have_value("blue star ; cyan ring")


def test_the_camera_takes_one(demo: Visit) -> None:
    """Chromium's own stand-in for a camera."""
    demo["open-camera"].click()
    video = demo["video"]
    expect(video).to_be_visible()
    demo.page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
    demo["take-picture"].click()
    expect(demo["camera-dialog"]).to_be_hidden()
    expect(demo.page.get_by_role("img", name="camera.jpg")).to_be_visible()
    assert video.evaluate("(video) => video.srcObject") is None  # and the camera is off


def test_a_second_click_starts_no_second_camera(demo: Visit) -> None:
    demo.page.evaluate(
        """() => {
          const devices = navigator.mediaDevices;
          const open = devices.getUserMedia.bind(devices);
          window.streams = [];
          devices.getUserMedia = (wanted) => (window.streams.push(open(wanted)), window.streams.at(-1));
        }"""
    )
    demo["open-camera"].evaluate("(button) => (button.click(), button.click())")
    expect(demo["camera-dialog"]).to_be_visible()
    demo["close-camera"].click()
    expect(demo["camera-dialog"]).to_be_hidden()
    states = demo.page.evaluate(
        """async () => (await Promise.all(window.streams)).map((stream) => stream.getTracks()[0].readyState)"""
    )
    assert states == ["ended"]


def test_no_picture_is_taken_before_the_camera_shows_one(demo: Visit) -> None:
    demo.page.evaluate("() => (navigator.mediaDevices.getUserMedia = async () => new MediaStream())")
    demo["open-camera"].click()
    expect(demo["take-picture"]).to_be_disabled()
    demo["close-camera"].click()


def test_the_picture_that_was_chosen_last_stays(demo: Visit) -> None:
    """A sample is chosen, and comes after the file that is chosen next; its pixels are freed."""
    demo.page.evaluate(
        """() => {
          const make = createImageBitmap;
          window.bitmaps = [];
          window.createImageBitmap = async (...given) => {
            window.bitmaps.push(await make(...given));
            return window.bitmaps.at(-1);
          };
        }"""
    )
    held: list[Route] = []
    demo.page.route("**/demo/samples/everyday.jpg", lambda route: held.append(route))  # noqa: PLW0108 - Playwright wraps no builtin
    with demo.page.expect_request("**/demo/samples/everyday.jpg"):
        demo.page.get_by_role("button", name="Sample: everyday things").click()
    demo["file"].set_input_files(DOCS / "sample.png")
    shows_the_sample(demo, "sample.png")
    held[0].continue_()
    demo.page.wait_for_function("() => window.bitmaps.length === 2")
    demo.drawing()
    expect(demo.page.get_by_role("img", name="sample.png")).to_be_visible()
    assert demo.page.evaluate("() => window.bitmaps.map(({ width }) => width)") == [640, 0]


def test_an_address_is_fetched_by_the_service(demo: Visit) -> None:
    """The page may load nothing from other hosts: it shows the picture that comes with the answer."""
    demo["open-url"].click()
    encoded = base64.b64encode((DOCS / "sample.png").read_bytes()).decode()
    demo["url"].fill(f"data:image/png;base64,{encoded}")
    demo["url"].press("Enter")
    expect(demo["url-dialog"]).to_be_hidden()
    expect(demo["unseen"]).to_be_visible()
    demo.ask("blue star")
    demo.answered()
    expect(demo["unseen"]).to_be_hidden()
    assert demo["stage"].evaluate("(stage) => stage.style.getPropertyValue('--ratio')").startswith("1.333")


def test_a_picture_that_the_browser_cannot_show_comes_with_the_answer(demo: Visit, tmp_path: Path) -> None:
    tiff = tmp_path / "sample.tiff"
    Image.open(DOCS / "sample.png").save(tiff)
    give(demo, "drop", tiff, "image/tiff")
    expect(demo["unseen"]).to_be_visible()
    demo.ask("blue star")
    demo.answered()
    expect(demo["unseen"]).to_be_hidden()
    assert demo.labels == ["blue star"]


def test_a_photograph_lies_the_way_the_service_sees_it(demo: Visit, tmp_path: Path) -> None:
    """A camera writes its pixels as they come, and how it was held beside them."""
    sideways = tmp_path / "sideways.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    buffer = io.BytesIO()
    Image.open(DOCS / "sample.png").convert("RGB").rotate(90, expand=True).save(buffer, "JPEG", exif=exif)
    sideways.write_bytes(buffer.getvalue())
    give(demo, "drop", sideways, "image/jpeg")
    expect(demo.page.get_by_role("img", name="sideways.jpg")).to_be_visible()
    assert demo["stage"].evaluate("(stage) => stage.style.getPropertyValue('--ratio')").startswith("1.333")


def test_a_file_that_is_no_picture_is_refused_in_words(demo: Visit, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not a picture")
    give(demo, "drop", notes, "text/plain")
    expect(demo["failure"]).to_contain_text("Notes.txt is not a picture")
