"""What demo.sh prints and sends where the gateway has keys or no documentation page."""

from pathlib import Path

import pytest

from gateway.door.access import KeyFile, read_keys
from parts.demo import key_header, usage_lines

URL = "http://127.0.0.1:8000"


def test_without_settings_it_names_the_page_and_sends_no_key() -> None:
    lines = usage_lines(URL, {})
    assert [line.split()[0] for line in lines] == ["page", "API", "try", "serving"]
    assert "X-API-Key" not in "".join(lines)
    assert key_header({}) == {}
    assert key_header({"API_KEYS_FILE": ""}) == {}


def test_a_page_that_is_off_is_not_named() -> None:
    assert f"{URL}/docs" in "\n".join(usage_lines(URL, {"DOCS": "on"}))
    assert f"{URL}/docs" not in "\n".join(usage_lines(URL, {"DOCS": "off"}))


@pytest.mark.parametrize("line", ["first-key", "alice:first-key", " alice : first-key ", "alice:first:key"])
def test_the_sample_carries_the_first_key(tmp_path: Path, line: str) -> None:
    """As the gateway reads it."""
    keys = tmp_path / "keys"
    keys.write_text(f"\ufeff# people\n\n{line}\nbob:second-key\n")
    sent = key_header({"API_KEYS_FILE": str(keys)})["X-API-Key"]
    assert sent in ("first-key", "first:key")
    assert KeyFile(keys).find(sent) == read_keys(keys)[0]


def test_no_key_is_printed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice:first-key\n")
    lines = usage_lines(URL, {"API_KEYS_FILE": str(keys)})
    assert "first-key" not in "".join(lines)
    (command,) = [line for line in lines if line.startswith("try ")]
    assert command.endswith('-H "X-API-Key: $KEY"')
    assert any(str(keys) in line for line in lines)
