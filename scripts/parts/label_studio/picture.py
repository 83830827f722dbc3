"""Draws Label Studio's editor with a task's predictions, with the system's Chromium.

It runs in Label Studio's environment, not in the project's.

python picture.py URL USER PASSWORD PROJECT TASK PICTURE.png [PROMPT]
"""

import importlib
import sys
from pathlib import Path
from typing import Any, Final

CHROMIUM: Final = "/usr/bin/chromium"
TIMEOUT_MS: Final = 60_000
SIZE: Final = {"width": 1280, "height": 800}


def main() -> None:
    """Logs in, opens the task, waits for its regions; types a prompt if there is one."""
    url, user, password, project, task, picture, *typed = sys.argv[1:]
    playwright = importlib.import_module("playwright.sync_api")  # not installed in the project's environment
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(f"{url}/user/login/")
        page.fill("input[name=email]", user)
        page.fill("input[name=password]", password)
        with page.expect_navigation():
            page.keyboard.press("Enter")
        page.goto(f"{url}/projects/{project}/data?task={task}")
        page.wait_for_selector("canvas")
        page.wait_for_selector(".lsf-outliner-item")
        if typed:
            type_prompt(page, typed[0])
        page.wait_for_load_state("networkidle")
        page.screenshot(path=picture)
        browser.close()


def type_prompt(page: Any, prompt: str) -> None:
    """Turns the suggestions on, types a prompt, and waits for the answer."""
    page.get_by_text("Auto-Annotation").click()
    box = page.locator("textarea, input[name=prompt]").first
    box.fill(prompt)
    with page.expect_response(lambda response: "interactive-annotating" in response.url):
        box.press("Enter")


if __name__ == "__main__":
    Path(sys.argv[6]).parent.mkdir(parents=True, exist_ok=True)
    main()
