"""What README and documentation say of files and commands, held against the tree."""

import base64
import io
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from documents import COMMANDS, CONTRIBUTING, DOCUMENTS, README, REPOSITORY, REST, code_blocks, mapped_paths, section
from PIL import Image

SHORT_README_LINES = 180
CONTRIBUTORS_MAP = section(CONTRIBUTING, "Where things are")
MAPPED = sorted({*mapped_paths(section(README, "Map")), *mapped_paths(CONTRIBUTORS_MAP)})
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)")
COMMAND = re.compile(r"(?:\./|python3? )(scripts/[\w/.]+)")
NAMED_FILE = re.compile(r"`((?:model_repository|gateway|scripts|tests|deploy|models)/[\w./-]+)`")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def outside_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What links can name in a page: its headings, as GitHub and MkDocs spell them."""
    headings = re.findall(r"^#+ (.+)$", outside_code(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def links() -> list[tuple[Path, str, str]]:
    found = ((page, *link) for page in DOCUMENTS for link in LINK.findall(outside_code(page.read_text())))
    return sorted(set(found))


def named(pattern: re.Pattern[str]) -> list[str]:
    return sorted({name for page in DOCUMENTS for name in pattern.findall(page.read_text())})


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= SHORT_README_LINES


@pytest.mark.parametrize("path", MAPPED)
def test_a_mapped_path_exists(path: str) -> None:
    assert (REPOSITORY / path).exists()
    assert (REPOSITORY / path).is_dir() == path.endswith("/")


def test_the_contributors_map_shows_every_folder_and_script() -> None:
    shown = set(mapped_paths(CONTRIBUTORS_MAP))
    folders = {f"{path.split('/')[0]}/" for path in tracked() if "/" in path and not path.startswith(".")}
    packages = {
        f"{Path(path).parent}/" for path in tracked() if re.fullmatch(r"model_repository/\w+/\w+/__init__.py", path)
    }
    scripts = {path for path in tracked() if re.fullmatch(r"scripts/\w+\.(py|sh)", path)}
    assert folders | packages | scripts <= shown


def test_the_readmes_map_is_the_top_level() -> None:
    """All of it but what explains itself by its name."""
    explained = {"README.md", "CHANGELOG.md", "LICENSE"}
    top = {path if "/" not in path else f"{path.split('/')[0]}/" for path in tracked() if not path.startswith(".")}
    assert set(mapped_paths(section(README, "Map"))) == top - explained


def test_the_commands_page_shows_every_script() -> None:
    scripts = {Path(path).name for path in tracked() if re.fullmatch(r"scripts/\w+\.(py|sh)", path)}
    assert {Path(script).name for script in COMMAND.findall(COMMANDS)} == scripts


@pytest.mark.parametrize(("page", "target", "anchor"), links())
def test_a_link_leads_somewhere(page: Path, target: str, anchor: str) -> None:
    path = (page.parent / target).resolve() if target else page
    assert path.exists()
    if anchor:
        assert anchor in anchors(path)


@pytest.mark.parametrize("script", named(COMMAND))
def test_a_command_exists(script: str) -> None:
    path = REPOSITORY / script
    assert path.is_file()
    assert path.suffix == ".py" or path.stat().st_mode & 0o111


@pytest.mark.parametrize("name", named(NAMED_FILE))
def test_a_named_file_exists(name: str) -> None:
    assert (REPOSITORY / name).exists()


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_code_blocks_are_closed(page: Path) -> None:
    assert len(re.findall(r"^```", page.read_text(), re.MULTILINE)) % 2 == 0


def test_the_two_commands_come_first() -> None:
    run, test, *_ = code_blocks(README, "bash")
    assert (run, test) == ("./scripts/demo.sh\n", "./scripts/test.sh\n")


def test_the_python_example_bears_a_box_without_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A box narrower than half a pixel is rounded to none, and there is no picture of that size."""
    picture = io.BytesIO()
    Image.new("L", (64, 64), 255).save(picture, "PNG")
    encoded = base64.b64encode(picture.getvalue()).decode()
    found = {"mask": encoded, "label": "hair", "score": 0.5}
    boxes = [[10, 5, 10, 9], [64, 5, 64, 64], [3, 4, 5, 4]]
    answer = {"image": encoded, "masks": [{**found, "coordinates": box} for box in boxes]}
    monkeypatch.setattr("requests.post", lambda *_, **__: SimpleNamespace(json=lambda: answer))
    monkeypatch.chdir(REPOSITORY)
    (program,) = (block for block in code_blocks(REST, "python") if block.startswith("import base64"))
    exec(program, {})
    assert capsys.readouterr().out.count("hair") == len(boxes)


def test_files_stay_short() -> None:
    long = [
        path
        for path in tracked()
        if path.endswith((".py", ".sh")) and len((REPOSITORY / path).read_text().splitlines()) > 300
    ]
    assert long == []
