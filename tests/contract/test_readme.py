"""What the README says of files, variables and metrics, held against the tree."""

import base64
import io
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from documents import README, first_cells, section
from PIL import Image

from gateway.settings import Settings
from paligemma_engine.metrics import FAMILIES, MetricKind

REPOSITORY = Path(__file__).resolve().parent.parent.parent
INTERNAL = {"HEARTBEAT_DIR"}  # between the supervisor and its engines
READS_A_VARIABLE = re.compile(r'environ(?:\.get\(|, |\[)"([A-Z_]+)"|^([A-Z_]+): Final = "\2"$', re.MULTILINE)
SOURCES = ("gateway", "model_repository", "scripts")


def mapped_paths() -> list[str]:
    """The map's paths: its indentation is the tree's."""
    parents: list[str] = []
    paths = []
    block = re.search(r"```\n(.*?)```", section(README, "Map"), re.DOTALL)
    assert block
    for line in block[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        paths.append("".join(parents[: depth + 1]))
    return paths


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.mark.parametrize("path", mapped_paths())
def test_a_mapped_path_exists(path: str) -> None:
    assert (REPOSITORY / path).exists()
    assert (REPOSITORY / path).is_dir() == path.endswith("/")


def test_the_map_shows_every_folder_and_script() -> None:
    shown = set(mapped_paths())
    folders = {f"{path.split('/')[0]}/" for path in tracked() if "/" in path and not path.startswith(".")}
    packages = {
        f"{Path(path).parent}/" for path in tracked() if re.fullmatch(r"model_repository/\w+/\w+/__init__.py", path)
    }
    scripts = {path for path in tracked() if re.fullmatch(r"scripts/\w+\.(py|sh)", path)}
    sourced = {"scripts/environment.sh", "scripts/host.sh", "scripts/demo.py"}  # parts of the scripts that are shown
    assert folders | packages | (scripts - sourced) <= shown


def test_the_variables_are_those_that_are_read() -> None:
    sources = "\n".join(
        (REPOSITORY / path).read_text() for path in tracked() if path.startswith(SOURCES) and path.endswith(".py")
    )
    read = {name for pair in READS_A_VARIABLE.findall(sources) for name in pair if name}
    settings = {name.upper() for name in Settings.model_fields}
    assert first_cells(README, "Settings") == (read | settings | {"PYTHON"}) - INTERNAL


def test_the_metrics_are_those_that_are_exported() -> None:
    assert first_cells(README, "Metrics") == {family.name for family in FAMILIES}
    for family in FAMILIES:
        (row,) = [line for line in section(README, "Metrics").splitlines() if f"`{family.name}`" in line]
        assert family.kind.value in row.split("|")[2]
        if family.kind is MetricKind.HISTOGRAM:
            bounds = ", ".join(f"{bound:g}" for bound in family.buckets)
            assert bounds in section(README, "Metrics")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_a_link_leads_somewhere(target: str) -> None:
    assert (REPOSITORY / target).exists()


@pytest.mark.parametrize("script", sorted(set(re.findall(r"(?:\./|python )(scripts/[\w/.]+)", README))))
def test_a_command_exists(script: str) -> None:
    path = REPOSITORY / script
    assert path.is_file()
    assert path.suffix == ".py" or path.stat().st_mode & 0o111


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
    (program,) = re.findall(r"^```python\n(import base64.*?)^```", README, re.MULTILINE | re.DOTALL)
    exec(program, {})
    assert capsys.readouterr().out.count("hair") == len(boxes)


def test_files_stay_short() -> None:
    long = [
        path
        for path in tracked()
        if path.endswith((".py", ".sh")) and len((REPOSITORY / path).read_text().splitlines()) > 300
    ]
    assert long == []
