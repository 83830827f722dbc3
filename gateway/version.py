"""The gateway's version, as pyproject.toml has it; a test sees to that."""

from typing import Final

VERSION: Final = "0.1.0"
