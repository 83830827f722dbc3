"""Runs the demo stack: Triton under its supervisor, the gateway, and one sample through both. demo.sh starts it."""

import argparse
import base64
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

import httpx2

from supervision.ports import Port, PortError, check_ports, read_port
from supervision.processes import when_parent_dies
from supervision.server import ServerOptions

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SAMPLE: Final = REPOSITORY / "docs" / "sample.png"
SAMPLE_PROMPT: Final = "segment green diamond ; blue star ; yellow heart ; cyan ring"
DEMO_MODEL_ID: Final = "paligemma2-demo-224"
RUN_DIR: Final = REPOSITORY / ".run"
STOP_TIMEOUT_S: Final = 90.0
POLL_S: Final = 0.1


class DemoFailed(Exception):
    """The stack cannot be started; the message says why."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM."""


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="demo.sh", description="Serves the demo model, and segments a sample with it."
    )
    parser.add_argument("--once", action="store_true", help="end after the sample, leaving nothing running")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _raise_stopped)
    signal.signal(signal.SIGINT, _raise_stopped)
    try:
        with stack(dict(os.environ)) as (url, is_alive):
            segment_sample(url)
            if not arguments.once:
                serve(url, is_alive)
    except Stopped:
        print("\nstopped")
    except (DemoFailed, PortError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def stack(environ: dict[str, str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Triton and the gateway, ready; yields the gateway's address and a check that both still run.

    Raises:
        DemoFailed: one of them does not start.
        PortError: a port is taken.
    """
    environ.setdefault("MODEL_ID", DEMO_MODEL_ID)
    environ.setdefault("MODELS_DIR", str(REPOSITORY / "models"))
    gateway, triton = _ports(environ)
    host = environ.setdefault("GATEWAY_HOST", "127.0.0.1")
    check_ports("127.0.0.1", triton)
    check_ports(host, [gateway])
    environ["TRITON_GRPC_URL"] = f"127.0.0.1:{triton[1].number}"
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{gateway.number}"  # noqa: S104
    RUN_DIR.mkdir(exist_ok=True)
    serve_command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), "--restart"]
    gateway_command = [sys.executable, "-m", "gateway"]
    with Process("triton", serve_command, environ) as server, Process("gateway", gateway_command, environ) as front:

        def check() -> None:
            for process in (server, front):
                process.check()

        ports = ", ".join(
            f"{name} {port.number}" for name, port in zip(("http", "grpc", "metrics"), triton, strict=True)
        )
        _wait("triton", f"http://127.0.0.1:{triton[0].number}/v2/health/ready", check, f"127.0.0.1: {ports}")
        _wait("gateway", f"{url}/readyz", check, url)
        yield url, check


def segment_sample(url: str) -> None:
    """Sends the sample through the gateway; prints its objects and writes the overlay."""
    started = time.monotonic()
    fields = {"prompt": SAMPLE_PROMPT, "overlay": "true"}
    with SAMPLE.open("rb") as picture:
        response = httpx2.post(
            f"{url}/segment", data=fields, files={"image_file": picture}, timeout=120, trust_env=False
        )
    if response.status_code != httpx2.codes.OK:
        raise DemoFailed(f"the sample was answered with {response.status_code}: {response.text}")
    answer = response.json()
    print(f"{'sample':<14} answered in {time.monotonic() - started:.1f} s   {SAMPLE_PROMPT}\n")
    print_objects(answer["masks"])
    overlay = RUN_DIR / "overlay.png"
    overlay.write_bytes(base64.b64decode(answer["overlay"]))
    print(f"\noverlay        {overlay.relative_to(REPOSITORY)}")


def print_objects(masks: list[dict[str, Any]]) -> None:
    """A table of the objects of an answer."""
    print(f"{'object':<20} {'x_min y_min x_max y_max':>24}   {'score':>5}   {'mask score':>10}")
    for found in masks:
        box = " ".join(f"{value:>5}" for value in found["coordinates"])
        print(f"{found['label']:<20} {box:>24}   {found['score']:>5.2f}   {found['mask_score']:>10.2f}")


def serve(url: str, check: Callable[[], None]) -> None:
    """Says how to use it, and waits for Ctrl-C."""
    picture, prompt = SAMPLE.relative_to(REPOSITORY), shlex.quote("prompt=segment blue star")
    print(f"\ntry            curl {url}/segment -F image_file=@{picture} --form-string {prompt}")
    print(f"documentation  {url}/docs\nserving until Ctrl-C", flush=True)
    while True:
        check()
        time.sleep(POLL_S)


class Process:
    """A child with its log; leaving the context ends it in order."""

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str]) -> None:
        self._name = name
        self._command = command
        self._environ = environ
        self.log = RUN_DIR / f"{name}.log"

    def __enter__(self) -> "Process":
        self._child = subprocess.Popen(
            self._command,
            cwd=REPOSITORY,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches this script only, which then stops things in order
            preexec_fn=when_parent_dies(signal.SIGTERM),  # noqa: PLW1509  # one system call, looked up before the fork
        )
        assert self._child.stdout is not None
        self._pump = threading.Thread(target=self._pump_log, args=(self._child.stdout,), daemon=True)
        self._pump.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._pump.join(1.0)

    def check(self) -> None:
        """Raises DemoFailed where the child has ended."""
        if (status := self._child.poll()) is not None:
            self._pump.join(1.0)
            raise DemoFailed(f"{self._name} ended with status {status}; its log is {self.log.relative_to(REPOSITORY)}")

    def _pump_log(self, stream: IO[bytes]) -> None:
        """Everything into the log; what the supervisor says of itself also to the terminal."""
        with self.log.open("wb", buffering=0) as log:
            relevant = False
            for line in stream:
                log.write(line)
                relevant = line.startswith(b"serve: ") or (relevant and line.startswith(b"  "))
                if relevant and not line.startswith((b"serve: ready after", b"serve: stopped")):
                    print(line.decode(errors="replace"), end="", file=sys.stderr, flush=True)


def _ports(environ: Mapping[str, str]) -> tuple[Port, list[Port]]:
    return read_port(environ, "GATEWAY_PORT", 8000), ServerOptions.read_ports(environ)


def _wait(name: str, url: str, check: Callable[[], None], where: str) -> None:
    """Waits for a probe to answer 200, and prints the phase's line."""
    started = time.monotonic()
    with httpx2.Client(trust_env=False, timeout=5.0) as client:
        while True:
            check()
            with contextlib.suppress(httpx2.HTTPError):
                if client.get(url).status_code == httpx2.codes.OK:
                    break
            time.sleep(POLL_S)
    print(f"{name:<14} ready in {time.monotonic() - started:6.1f} s   {where}", flush=True)


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # things are being stopped in order now
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
