"""The benchmark of the whole server says what is missing."""

import os
import subprocess
import sys
from pathlib import Path

from stack import Ports

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "benchmark.py"


def test_without_triton_it_ends_with_one_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--models", "paligemma2-demo-224", "--json", tmp_path / "report.json"],
        env={**os.environ, **Ports.free().environ(), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: triton ended")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report.json").exists()
