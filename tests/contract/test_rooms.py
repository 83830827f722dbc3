"""The engine's rooms: what each may import is written in its `__init__`, and held here."""

import ast
import re
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parent.parent.parent / "model_repository" / "paligemma" / "paligemma_engine"
ROOMS = sorted(path.parent.name for path in ENGINE.glob("*/__init__.py"))
SHARED = {"config", "errors", "metrics"}  # modules beside the rooms that every room may import
MOST_FILES = 9
NO_TORCH = ("answers", "requests", "preparation", "scheduling", "pool")


def allowed(room: str) -> set[str]:
    documented = ast.get_docstring(ast.parse((ENGINE / room / "__init__.py").read_text())) or ""
    found = re.search(r"^May import: (.*)\.$", documented, re.MULTILINE)
    assert found, f"{room}/__init__.py does not say what it may import"
    return set() if found[1] == "no other room" else set(found[1].split(", "))


def imported(room: str) -> set[str]:
    """Modules that a room's files import, by their whole names."""
    names: set[str] = set()
    for file in (ENGINE / room).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = node.module == "paligemma_engine"
                names |= {f"{node.module}.{alias.name}" for alias in node.names} if whole else {node.module}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_it_says(room: str) -> None:
    used = {name.split(".")[1] for name in imported(room) if name.startswith("paligemma_engine.")}
    assert used - SHARED - {room} == allowed(room)


def test_no_rooms_import_each_other_in_a_circle() -> None:
    left = {room: allowed(room) for room in ROOMS}
    while left:
        lowest = [room for room, needs in left.items() if not needs & left.keys()]
        assert lowest, f"a circle among {sorted(left)}"
        for room in lowest:
            del left[room]


@pytest.mark.parametrize("room", NO_TORCH)
def test_these_rooms_know_no_torch(room: str) -> None:
    assert not [name for name in imported(room) if name.split(".")[0] in ("torch", "transformers")]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_holds_few_files(room: str) -> None:
    assert len([path for path in (ENGINE / room).glob("*.py") if path.name != "__init__.py"]) <= MOST_FILES
