"""What the tests of the command share."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures, two of which differ in their suffix only, one in a folder; and what is none."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(["a.png", "a.bmp", "b.png", "c.PNG", "sub/a.png", "sub/d.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(path)
    (folder / "notes.md").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"hidden")
    return folder
