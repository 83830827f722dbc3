"""example.ipynb, executed as its readers execute it; `jupyter execute --inplace example.ipynb` renews its outputs.

Only the cell that installs the client is left out here: it would change the environment of all tests.
"""

import itertools
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from stack import REPOSITORY

NOTEBOOK = REPOSITORY / "example.ipynb"
INSTALL = "%pip install --quiet ./client"


@pytest.fixture(scope="module")
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def kinds(notebook: Any) -> list[list[str]]:
    """What sorts of output each cell has; texts and pictures depend on the model."""
    # A cell's text may come in several pieces.
    return [
        [kind for kind, _ in itertools.groupby(output.output_type for output in cell.get("outputs", []))]
        for cell in notebook.cells
    ]


def test_it_is_shipped_with_its_outputs(notebook: Any) -> None:
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code")


def test_it_runs(stack: Any, notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (install,) = [cell for cell in notebook.cells if "install" in cell.metadata.get("tags", [])]
    assert install.source == INSTALL
    notebook.cells.remove(install)
    shipped = kinds(notebook)
    variables = {
        "GATEWAY_URL": stack.url,
        "TRITON_HTTP_URL": f"127.0.0.1:{stack.ports.http}",
        "TRITON_GRPC_URL": f"127.0.0.1:{stack.ports.grpc}",
        "PYTHONPATH": str(REPOSITORY / "client"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    resources = {"metadata": {"path": str(REPOSITORY)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    assert kinds(notebook) == shipped
