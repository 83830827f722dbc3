"""The documentation site: it builds without a warning, has every page in its menu, and needs no other host."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import DOCS, REPOSITORY

LOADED = re.compile(
    r"""<(?:script|img|source|iframe)\b[^>]*\bsrc=["']?(?P<src>https?:[^"'\s>]+)
    |<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?(?P<href>https?:[^"'\s>]+)""",
    re.VERBOSE,
)


def pages_in(menu: Any) -> list[str]:
    if isinstance(menu, str):
        return [menu]
    entries = menu if isinstance(menu, list) else menu.values()
    return [page for entry in entries for page in pages_in(entry)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    loaded = {
        f"{page.relative_to(site)}: {found[0]}"
        for page in site.rglob("*.html")
        for found in LOADED.finditer(page.read_text())
    }
    assert loaded == set()
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert not re.search(r"url\(['\"]?https?:|@import", styles)


def test_search_has_an_index_of_its_own(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    assert "MAX_SLOTS" in index


def test_every_page_is_in_the_menu_once() -> None:
    menu = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    assert sorted(pages_in(menu)) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
