"""The images, started as an operator starts them; see scripts/container_test.sh."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import TOKEN, Compose


@pytest.fixture(scope="session")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    path.parent.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def compose(token_file: Path) -> Iterator[Compose]:
    with Compose(token_file) as running:
        yield running
