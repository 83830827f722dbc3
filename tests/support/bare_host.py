"""A machine that has little more than a shell, and a fresh clone on it, for the scripts that people start first."""

import os
import pty
import shutil
import subprocess
from pathlib import Path

from stack import REPOSITORY

COMMANDS = (
    *("awk", "bash", "cat", "cut", "dirname", "env", "grep", "head", "mkdir", "mv", "rm"),
    *("chmod", "sed", "sha256sum", "sort", "tail", "tee", "touch"),
)
CLONED = (
    "pyproject.toml",
    "constraints.txt",
    "scripts/demo.sh",
    "scripts/parts/environment.sh",
    "scripts/parts/host.sh",
)
TIMEOUT_S = 60.0


class BareHost:
    """Linux on x86-64 with glibc 2.39 and no Python, as long as no command is put there that says otherwise.

    Attributes:
        clone: the repository's root there.
    """

    def __init__(self, folder: Path) -> None:
        self.clone, self._commands = folder / "clone", folder / "bin"
        self._commands.mkdir()
        for name in COMMANDS:
            found = shutil.which(name)
            assert found, name
            (self._commands / name).symlink_to(found)
        for name in CLONED:
            (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, self.clone / name)
        self.command("uname", "case $1 in -s) echo Linux ;; -m) echo x86_64 ;; *) exit 1 ;; esac")
        self.command("ldd", 'echo "ldd (Ubuntu GLIBC 2.39-0ubuntu8.6) 2.39"')

    def command(self, name: str, body: str) -> None:
        """Puts a command there."""
        self.script(self._commands / name, body)

    @staticmethod
    def script(path: Path, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        path.chmod(0o755)

    def demo(self, **variables: str) -> "subprocess.CompletedProcess[str]":
        """demo.sh --once."""
        return self._run([str(self.clone / "scripts" / "demo.sh"), "--once"], variables)

    def shell(self, line: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """A line in a shell that has read environment.sh."""
        return self._run(["bash", "-c", self._sourced(line)], variables)

    def terminal(self, line: str) -> str:
        """The same on a terminal; returns what it was sent."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            ["bash", "-c", self._sourced(line)], env=self._environ({}), cwd=self.clone, stdout=theirs, stderr=theirs
        ) as shell:
            os.close(theirs)
            sent = b""
            try:
                while part := os.read(ours, 4096):
                    sent += part
            except OSError:  # so Linux says that nobody holds the other end any more
                pass
            assert shell.wait(TIMEOUT_S) == 0
        os.close(ours)
        return sent.decode()

    def _run(self, command: list[str], variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            env=self._environ(variables),
            cwd=self.clone,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def _environ(self, variables: dict[str, str]) -> dict[str, str]:
        return {"PATH": str(self._commands), "HOME": str(self.clone), **variables}

    @staticmethod
    def _sourced(line: str) -> str:
        return f"set -euo pipefail; . scripts/parts/environment.sh; {line}"
