"""What tests read in the documents."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCS = REPOSITORY / "docs"
README = (REPOSITORY / "README.md").read_text()
RUNBOOK = (DOCS / "runbook.md").read_text()
SETTINGS = (DOCS / "reference" / "settings.md").read_text()
METRICS = (DOCS / "reference" / "metrics.md").read_text()
ERRORS = (DOCS / "reference" / "errors.md").read_text()
REST = (DOCS / "reference" / "rest.md").read_text()
TENSORS = (DOCS / "reference" / "triton.md").read_text()
COMMANDS = (DOCS / "reference" / "commands.md").read_text()
CONTRIBUTING = (DOCS / "contributing.md").read_text()
DOCUMENTS = (REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")))


def section(document: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The rows of all tables whose first cell begins with a name: their cells."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]


def first_cells(document: str, title: str | None = None) -> set[str]:
    """The names in the first column of the tables of a document, or of one of its sections."""
    text = document if title is None else section(document, title)
    return {name for row in rows(text) for name in re.findall(r"`(\w+)`", row[0])}


def first_cells_dotted(document: str, title: str) -> set[str]:
    """The same for names with dots in them."""
    return {name for row in rows(section(document, title)) for name in re.findall(r"`([\w.]+)`", row[0])}


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def mapped_paths(map_section: str) -> list[str]:
    """The paths of a drawn tree: its indentation is the tree's."""
    parents: list[str] = []
    paths = []
    (block,) = code_blocks(map_section, "")
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        paths.append("".join(parents[: depth + 1]))
    return paths
