"""Everybody can use the page: by keyboard, with a screen reader, on a phone, in the dark, without the internet."""

from collections.abc import Callable
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from real_stack import Stack
from visits import BLOCKED, REFUSED, Visit

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
PHONE = {"width": 360, "height": 740}
MOST_STOPS = 60  # of the tab key, on the way through the page


def violations(demo: Visit) -> list[str]:
    found = Axe().run(demo.page, options=RULES)
    return [
        f"{rule['id']}: {node['html'][:120]} {node['failureSummary']}"
        for rule in found.response["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 800}], ids=["phone", "desk"])
def test_nothing_keeps_people_out(
    stack: Stack, visit: Callable[..., Visit], scheme: str, viewport: dict[str, int]
) -> None:
    demo = visit(stack.url, color_scheme=scheme, viewport=viewport).open()
    assert violations(demo) == []
    demo["demo-notice"].locator("summary").click()
    demo.ask("penguin ; red car")
    demo.answered()
    assert violations(demo) == []
    demo.forgive(REFUSED)
    demo.ask(" ; ".join("abcdefghi"))
    expect(demo["failure"]).to_be_visible()
    assert violations(demo) == []
    demo["open-url"].click()
    assert violations(demo) == []


def test_nothing_is_wider_than_the_window(demo: Visit) -> None:
    demo.ask("penguin ; mushroom")
    demo.answered()
    for width in (320, 360, 768, 1280):
        demo.page.set_viewport_size({"width": width, "height": 740})
        assert demo.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_finger_reaches_what_it_aims_at(stack: Stack, visit: Callable[..., Visit]) -> None:
    demo = visit(stack.url, viewport=PHONE, has_touch=True).open()
    demo["suggestions"].get_by_role("button").first.tap()
    demo.answered()
    heights = demo.page.locator("button:visible").evaluate_all("(all) => all.map((one) => one.offsetHeight)")
    assert min(heights) >= 24  # pixels, by WCAG 2.2
    demo.rows.first.tap()
    expect(demo.rows.first).to_have_attribute("aria-pressed", "false")


def test_the_keyboard_is_enough(demo: Visit) -> None:
    keyboard = demo.page.keyboard

    def tab_to(element_id: str) -> None:
        for _ in range(MOST_STOPS):
            keyboard.press("Tab")
            if demo.page.evaluate("document.activeElement.id") == element_id:
                return
        raise AssertionError(f"the tab key does not lead to {element_id}")

    keyboard.press("Tab")
    keyboard.press("Enter")  # the link over the page's head
    expect(demo["prompt"]).to_be_focused()
    keyboard.type("penguin ; mushroom")
    keyboard.press("Enter")
    demo.answered()
    expect(demo["said"]).to_contain_text("2 found")
    for _ in range(MOST_STOPS):
        keyboard.press("Tab")
        if demo.page.evaluate("document.activeElement.closest('#objects') !== null"):
            break
    expect(demo.page.locator("#objects li.isolated")).to_have_count(1)
    keyboard.press("Space")
    expect(demo.rows.first).to_have_attribute("aria-pressed", "false")
    tab_to("opacity")
    keyboard.press("End")
    expect(demo["opacity"]).to_have_value("100")
    for _ in range(MOST_STOPS):
        keyboard.press("Tab")
        if demo.page.evaluate("document.activeElement.classList.contains('token')"):
            break
    keyboard.press("ArrowRight")
    expect(demo["explanation"]).to_contain_text("x_min")
    demo["stage"].focus()
    keyboard.press("+")
    expect(demo["zoom-level"]).to_have_text("140 %")
    keyboard.press("0")
    expect(demo["zoom-level"]).to_have_text("100 %")


def test_dark_and_light_differ(demo: Visit) -> None:
    def background(scheme: Literal["dark", "light"]) -> int:
        demo.page.emulate_media(color_scheme=scheme)
        colour = demo.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))

    assert background("light") > 600
    assert background("dark") < 100


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_api_is_described_without_the_internet(stack: Stack, visit: Callable[..., Visit], path: str) -> None:
    described = visit(stack.url)
    described.forgive(BLOCKED)  # what these pages try and their policy forbids; what they asked for is still held
    described.page.goto(f"{stack.url}{path}")
    expect(described.page.get_by_text("Find what a prompt asks for in an image").first).to_be_visible()


def test_a_browser_finds_the_page_at_the_root(stack: Stack, visit: Callable[..., Visit]) -> None:
    assert visit(stack.url).open("/").page.url == f"{stack.url}/demo"
