"""Child processes of measurements that need no real Triton."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from typing import Final

from parts.serve.child import REPOSITORY

STAND_IN: Final = REPOSITORY / "tests" / "support" / "fixed_delay_triton.py"


@contextlib.contextmanager
def child(command: list[str], environ: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a process without output; kills it when the context ends."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdout=quiet, stderr=quiet) as process:
        try:
            yield process
        finally:
            process.kill()
