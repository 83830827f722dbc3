"""A real Label Studio of its own, in an environment of its own, with an empty database."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 300.0
STOP_TIMEOUT_S: Final = 30.0
LABEL_STUDIO: Final = "label-studio==1.23.2"  # as in docker-compose.yml
PLAYWRIGHT: Final = "playwright==1.65.2"  # draws its editor, with the system's Chromium
USER: Final = "check@example.org"


@dataclass(frozen=True, slots=True)
class LabelStudio:
    """A running Label Studio.

    Attributes:
        url: of its root.
        token: legacy token of its user.
        password: of the same user.
        python: interpreter of its environment.
    """

    url: str
    token: str
    password: str
    python: Path


class LabelStudioFailed(Exception):
    """It does not start, or does not do what was asked; the message says what."""


def prepared_environment(folder: Path) -> Path:
    """Makes the environment if it is not there; returns its interpreter."""
    python = folder / "bin" / "python"
    wanted = f"{LABEL_STUDIO} {PLAYWRIGHT}"
    mark = folder / "installed.txt"
    if not mark.is_file() or mark.read_text() != wanted:
        print(f"installing {wanted} into {folder}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", LABEL_STUDIO, PLAYWRIGHT], check=True)
        mark.write_text(wanted)
    return python


@contextlib.contextmanager
def running_label_studio(python: Path, data: Path) -> Iterator[LabelStudio]:
    """Label Studio with its data in a folder; stopped when the context ends.

    Raises:
        LabelStudioFailed: it does not start.
    """
    port, token, password = free_port(), secrets.token_hex(20), secrets.token_hex(8)
    environ = {
        **os.environ,
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "USE_DEFAULT_BANNED_SUBNETS": "false",  # the backend is on this machine
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    account = ["--username", USER, "--password", password, "--user-token", token, "--enable-legacy-api-token"]
    command = [str(python.parent / "label-studio"), "start", "--no-browser", "--port", str(port), *account]
    log = data / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--internal-host", HOST], env=environ, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://{HOST}:{port}"
            _wait_until_ready(url, process, log)
            yield LabelStudio(url, token, password, python)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise LabelStudioFailed(f"Label Studio ended with status {process.returncode}:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/health", timeout=5.0, trust_env=False).status_code == httpx2.codes.OK:
                return
        time.sleep(0.5)
    raise LabelStudioFailed(f"Label Studio is not ready after {START_TIMEOUT_S:.0f} s; its log is {log}")
