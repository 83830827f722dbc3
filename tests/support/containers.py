"""The compose stack for tests: its services on free ports, in a project of its own, and what happens in them."""

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2
from stack import DEMO_MODEL_ID, REPOSITORY, Ports, free_ports

PROJECT = "paligemma-test"
TOKEN = "hf_thistokenisasecret"
IMAGE = "{}/paligemma-image-segmentation-{}:{}"
SERVICES = ("triton", "gateway", "prometheus")  # not Grafana: nothing is asked of it
FILES = ("docker-compose.yml", "docker-compose.cpu.yml")
REQUEST_TIMEOUT_S = 60.0
CLIENT_TIMEOUT_S = REQUEST_TIMEOUT_S + 10
PROMPT = "segment blue star ; cyan ring"


def image(name: str) -> str:
    return IMAGE.format(os.environ.get("DOCKERHUB_USERNAME", "local"), name, os.environ.get("IMAGE_TAG", "latest"))


def docker(*arguments: str, check: bool = True, timeout_s: float = 600) -> str:
    return run(["docker", *arguments], check=check, timeout_s=timeout_s)


def run(
    command: list[str], *, check: bool = True, timeout_s: float = 600, environ: Mapping[str, str] = os.environ
) -> str:
    """What it writes, on both streams."""
    done = subprocess.run(
        command,
        check=False,
        env=dict(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    assert not check or done.returncode == 0, done.stdout[-3000:]
    return done.stdout


class Compose:
    """The services; leaving the context removes them with their volumes."""

    def __init__(self, token_file: Path) -> None:
        self.ports = Ports.free()
        (self.prometheus_port,) = free_ports(1)
        self._environ = {
            **os.environ,
            "GATEWAY_PORT": str(self.ports.gateway),
            "TRITON_HTTP_PORT": str(self.ports.http),
            "TRITON_GRPC_PORT": str(self.ports.grpc),
            "TRITON_METRICS_PORT": str(self.ports.metrics),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "HF_TOKEN_PATH": str(token_file),
            "MODEL_ID": DEMO_MODEL_ID,
        }

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self("down", "--volumes", "--timeout", "5")

    def __call__(self, *arguments: str) -> str:
        files = [word for name in FILES for word in ("--file", str(REPOSITORY / name))]
        command = ["docker", "compose", "--project-name", PROJECT, *files, "--profile", "monitoring", *arguments]
        return run(command, environ=self._environ)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    def up(self) -> None:
        self("up", "--detach", "--wait", *SERVICES)

    def inside(self, service: str, *command: str) -> str:
        return docker("exec", f"{PROJECT}-{service}-1", *command)

    def inspect(self, service: str, template: str) -> str:
        return docker("inspect", "--format", template, f"{PROJECT}-{service}-1").strip()

    def processes(self, service: str) -> dict[int, str]:
        """Command lines by the host's process ids."""
        lines = docker("top", f"{PROJECT}-{service}-1", "-eo", "pid,args").splitlines()[1:]
        return {int(pid): command for pid, command in (line.split(maxsplit=1) for line in lines)}

    def kill(self, service: str, part_of_command: str) -> None:
        """kill -9 of the first process with this in its command line, as by the kernel: docker is not asked."""
        victim = min(pid for pid, command in self.processes(service).items() if part_of_command in command)
        command = f"import os; os.kill({victim}, 9)"
        docker("run", "--rm", "--pid", "host", "--user", "0", image("triton"), "python3", "-c", command)


@dataclass
class Load:
    """Clients that ask the gateway one request after the other; `with` runs them."""

    url: str
    picture: bytes
    clients: int = 16
    outcomes: Counter[str] = field(default_factory=Counter)
    answered_at: list[float] = field(default_factory=list)
    slowest_s: float = 0.0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CLIENT_TIMEOUT_S + 10)
            assert not thread.is_alive(), "a request hangs"

    def _run(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=CLIENT_TIMEOUT_S, trust_env=False) as client:
            self._ask_on(client)

    def _ask_on(self, client: httpx2.Client) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            outcome, retry_after_s = self._ask(client)
            with self._lock:
                self.outcomes[outcome] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                if outcome == "200":
                    self.answered_at.append(time.monotonic())
            self._stop.wait(retry_after_s)

    def _ask(self, client: httpx2.Client) -> tuple[str, float]:
        """What came back, and how long to wait before the next request."""
        form = {"prompt": PROMPT, "return_image": "false"}
        try:
            response = client.post("/segment", data=form, files={"image_file": self.picture})
        except httpx2.TransportError as error:
            return type(error).__name__, 1.0
        if response.status_code == 200:
            return "200", 0.0
        return f"{response.status_code} {response.json()['code']}", float(response.headers.get("Retry-After", "1"))
