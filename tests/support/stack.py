"""Real servers for tests: Triton under its supervisor, and the gateway, on free ports of this machine."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
import psutil

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DEMO_MODEL_ID = "paligemma2-demo-224"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0


def free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@dataclass(frozen=True)
class Ports:
    http: int
    grpc: int
    metrics: int
    gateway: int

    @classmethod
    def free(cls) -> Self:
        return cls(*free_ports(4))

    def environ(self) -> dict[str, str]:
        return {
            "TRITON_HTTP_PORT": str(self.http),
            "TRITON_GRPC_PORT": str(self.grpc),
            "TRITON_METRICS_PORT": str(self.metrics),
            "TRITON_GRPC_URL": f"127.0.0.1:{self.grpc}",
            "TRITON_METRICS_URL": f"http://127.0.0.1:{self.metrics}/metrics",
            "GATEWAY_PORT": str(self.gateway),
        }


def environment(ports: Ports, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a demo stack; whatever this shell sets of the project's variables is left out."""
    ours = re.compile(
        r"COMPILE|REPLICAS|CUDA_GRAPHS|MODEL|ALLOWED|VAE|HF_|MAX_|DTYPE|QUANTIZATION|FEATURE_|PREPARATION_|GRAMMAR|GATEWAY|TRITON_|API_KEYS|CORS|DEMO|DOCS|TRACES|UNKNOWN_|URL_FETCH|LABEL_STUDIO_|REQUEST_TIMEOUT|KEEP_ALIVE"
    )
    inherited = {name: value for name, value in os.environ.items() if not ours.match(name)}
    demo = {"MODEL_ID": DEMO_MODEL_ID, "MODELS_DIR": str(REPOSITORY / "models")}
    return {**inherited, **demo, **ports.environ(), **(overrides or {})}


class ChildProcess:
    """A process with its output; leaving the context ends it."""

    def __init__(self, command: list[str], environ: Mapping[str, str], *, cwd: Path = REPOSITORY) -> None:
        self._command, self._environ, self._cwd = command, dict(environ), cwd
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            env=self._environ,
            cwd=self._cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            sys.stderr.write("\n".join([*self.lines[-60:], ""]))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it with a signal; returns its status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(STOP_TIMEOUT_S)

    def wait(self, timeout_s: float) -> int:
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            self.process.wait()
            raise
        self._reader.join(5)
        return status

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, timeout_s: float, *, after: int = 0) -> str:
        """The first line, old or new, that matches; `after` leaves out as many lines."""
        give_up_at = time.monotonic() + timeout_s
        position = after
        while time.monotonic() < give_up_at:
            ended = self.process.poll() is not None
            while position < len(self.lines):
                if re.search(pattern, self.lines[position]):
                    return self.lines[position]
                position += 1
            assert not ended, f"ended with {self.process.returncode} before {pattern!r}\n{self.output[-3000:]}"
            time.sleep(0.05)
        raise AssertionError(f"no line {pattern!r} in {timeout_s} s\n{self.output[-3000:]}")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
        self.process.stdout.close()


def serve(ports: Ports, *options: str, **overrides: str) -> ChildProcess:
    """Triton under its supervisor, not yet started."""
    assert shutil.which("tritonserver"), "there is no tritonserver on PATH: run ./scripts/test.sh, which sets one up"
    command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), *options]
    return ChildProcess(command, environment(ports, overrides))


def gateway(ports: Ports, **overrides: str) -> ChildProcess:
    """The gateway, not yet started."""
    return ChildProcess([sys.executable, "-m", "gateway"], environment(ports, overrides))


def fixed_delay_triton(ports: Ports, *, delay_s: float, parallel: int) -> ChildProcess:
    """A stand-in for Triton that takes a known time, not yet started; for load tests."""
    script = REPOSITORY / "tests" / "support" / "fixed_delay_triton.py"
    return ChildProcess([sys.executable, str(script), str(ports.grpc), str(delay_s), str(parallel)], os.environ)


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


def answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def published_metrics(ports: Ports) -> str:
    """What Triton's /metrics says when the engines, which publish every half second, have said all."""
    time.sleep(1.2)
    with urllib.request.urlopen(f"http://127.0.0.1:{ports.metrics}/metrics", timeout=10) as response:
        return str(response.read().decode())


def infer(
    client: Any, module: ModuleType, image: bytes, prompt: str, *, model: str = "segment", **options: Any
) -> dict[str, np.ndarray]:
    """One call of Triton by one of tritonclient's modules; returns all outputs."""
    optional = {"model_id": options.pop("model_id", None), "max_new_tokens": options.pop("max_new_tokens", None)}
    inputs = []
    for name, value in (("image", image), ("prompt", prompt.encode()), ("model_id", optional["model_id"])):
        if value is not None:
            inputs.append(module.InferInput(name, [1], "BYTES"))
            inputs[-1].set_data_from_numpy(np.array([value], np.object_))
    if optional["max_new_tokens"] is not None:
        inputs.append(module.InferInput("max_new_tokens", [1], "INT32"))
        inputs[-1].set_data_from_numpy(np.array([optional["max_new_tokens"]], np.int32))
    result = client.infer(model, inputs, **options)
    response = result.get_response()
    names = [output["name"] if isinstance(output, dict) else output.name for output in _outputs(response)]
    return {name: result.as_numpy(name) for name in names}


def _outputs(response: Any) -> Any:
    return response["outputs"] if isinstance(response, dict) else response.outputs
