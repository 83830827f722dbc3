"""The page /demo as a user sees it."""

import base64
import io
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import ConsoleMessage, Download, Locator, Page, Request, expect

# What Chromium writes to the console of every answer from 400 on, and of what a page's policy forbids.
REFUSED = "Failed to load resource"
BLOCKED = "Content Security Policy"


class Visit:
    """One page in one browser window.

    Attributes:
        complaints: errors and warnings of the console, and exceptions of scripts.
        hosts: which were asked for anything.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self._forgiven: list[str] = []
        page.context.on("requestfinished", self._note_request)
        page.context.on("requestfailed", self._note_request)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: str = "/demo") -> Self:
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_selector("body.ready")
        return self

    def forgive(self, words: str) -> None:
        """From now on, the console may hold messages with these words."""
        self._forgiven.append(words)

    def ask(self, prompt: str) -> None:
        """Types a prompt and presses Enter."""
        self["prompt"].fill(prompt)
        self["prompt"].press("Enter")

    def answered(self) -> Self:
        """Waits until there is an answer."""
        expect(self["report"]).to_be_visible()
        return self

    def __getitem__(self, element_id: str) -> Locator:
        return self.page.locator(f"#{element_id}")

    @property
    def rows(self) -> Locator:
        """The objects in the list."""
        return self.page.locator("#objects li button")

    @property
    def labels(self) -> list[str]:
        return [label.strip() for label in self.page.locator("#objects .label").all_inner_texts()]

    def drawing(self) -> Image.Image:
        """What is on the canvas at this moment; a frame has passed since the last change."""
        encoded = self.page.evaluate(
            """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() =>
                resolve(document.getElementById("canvas").toDataURL()))))"""
        )
        return Image.open(io.BytesIO(base64.b64decode(encoded.partition(",")[2]))).convert("RGB")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where on the window a place of the picture is, given as shares; while nothing is magnified."""
        box = self["stage"].bounding_box()
        ratio = float(self["stage"].evaluate("(stage) => stage.style.getPropertyValue('--ratio')"))
        assert box is not None
        width = min(box["width"], box["height"] * ratio)
        height = width / ratio
        left, top = box["x"] + (box["width"] - width) / 2, box["y"] + (box["height"] - height) / 2
        return left + x * width, top + y * height

    def save(self, kind: str, folder: Path) -> Path:
        """Presses one of the buttons under Save."""
        with self.page.expect_download() as download:
            self[f"save-{kind}"].click()
        return kept(download.value, folder)

    def _note_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and request.failure != "csp":  # those never left the browser
            self.hosts.add(parts.hostname or "")

    def _note_message(self, message: ConsoleMessage) -> None:
        forgiven = any(words in message.text for words in self._forgiven)
        if message.type in ("error", "warning") and not forgiven:
            self.complaints.append(message.text)


def kept(download: Download, folder: Path) -> Path:
    path = folder / download.suggested_filename
    download.save_as(path)
    return path
