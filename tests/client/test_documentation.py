"""What docs/client.md says of the command, held against the command."""

import re
from pathlib import Path

from paligemma_client.command.options import _parser

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PAGE = (REPOSITORY / "docs" / "client.md").read_text()
OTHERS = {"--server-host", "--function-module", "--conf-threshold"}  # cvat-cli's


def test_every_option_is_described_and_there() -> None:
    options = set(re.findall(r"--[a-z-]+", _parser().format_help())) - {"--help"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) - OTHERS == options
