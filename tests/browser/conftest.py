"""A real Chromium, cut off from every host but this one, and the page in it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from real_stack import Stack
from visits import Visit

NAMES = ("chromium", "chromium-browser", "google-chrome")
THIS_HOST = "127.0.0.1"
TIMEOUT_MS = 30_000  # of one step; only a page that hangs takes as long
FLAGS = [
    "--no-sandbox",  # containers run tests as root
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {THIS_HOST}",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


def hosts_in(net_log: Path) -> set[str]:
    """The hosts that pages asked anything of, by Chromium's own log; what it asks for itself has no initiator."""
    started = (event.get("params", {}) for event in json.loads(net_log.read_text())["events"])
    return {
        urlsplit(request["url"]).hostname or ""
        for request in started
        if request.get("initiator", "").startswith("http") and request["url"].startswith(("http", "ws"))
    }


@pytest.fixture(scope="module")  # not longer: while it lasts, no other test can run an event loop in this thread
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium): the page is not tested")
    net_log = tmp_path_factory.mktemp("chromium") / "net.json"
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*FLAGS, f"--log-net-log={net_log}"])
        yield browser
        browser.close()
    assert hosts_in(net_log) == {THIS_HOST}


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens the page of a gateway; nothing may go wrong in the browser that the test does not expect."""
    visits: list[Visit] = []

    def open_page(url: str, **options: object) -> Visit:
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT_MS)
        context.grant_permissions(["camera", "clipboard-read", "clipboard-write"])
        visits.append(Visit(context.new_page(), url))
        return visits[-1]

    yield open_page
    for made in visits:
        made.page.context.close()
        assert made.complaints == []
        assert made.hosts <= {THIS_HOST}


@pytest.fixture
def demo(stack: Stack, visit: Callable[..., Visit]) -> Visit:
    """The page of the shared stack, ready to be used."""
    return visit(stack.url).open()
