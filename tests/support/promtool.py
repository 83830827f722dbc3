"""Prometheus' own tool, where it is installed."""

import shutil

import pytest


def find_promtool() -> str:
    """Its path; skips the test where it is missing."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed (Debian, Ubuntu: apt-get install prometheus)")
    return path
