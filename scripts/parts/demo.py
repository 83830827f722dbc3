"""Runs the demo stack: Triton under its supervisor, the gateway, and one sample through both. demo.sh starts it."""

import argparse
import base64
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

import httpx2

from parts.serve.ports import PortError
from parts.serve.stack import REPOSITORY, RUN_DIR, Stack, StackFailed, running_stack

SAMPLE: Final = REPOSITORY / "docs" / "sample.png"
SAMPLE_PROMPT: Final = "segment green diamond ; blue star ; yellow heart ; cyan ring"
SAMPLE_TIMEOUT_S: Final = 120.0
OVERLAY: Final = RUN_DIR / "overlay.png"
POLL_S: Final = 0.2


class Stopped(Exception):
    """Ctrl-C or SIGTERM."""


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="demo.sh", description="Serves the demo model and segments a sample with it.")
    parser.add_argument("--once", action="store_true", help="end after the sample, leaving nothing running")
    arguments = parser.parse_args()
    at_once = install_signal_handlers()
    try:
        with running_stack(dict(os.environ), print_phase, at_once) as stack:
            segment_sample(stack, os.environ)
            if not arguments.once:
                print("\n".join(usage_lines(stack.url, os.environ)), flush=True)
                serve(stack)
    except Stopped:
        print("\nstopped")
    except (StackFailed, PortError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def print_phase(name: str, seconds: float, where: str) -> None:
    """Prints one line for a part of the stack."""
    print(f"{name:<14} ready in {seconds:6.1f} s   {where}", flush=True)


def segment_sample(stack: Stack, environ: Mapping[str, str]) -> None:
    """Sends the sample through the gateway; prints its objects and writes the overlay."""
    started = time.monotonic()
    fields = {"prompt": SAMPLE_PROMPT, "overlay": "true"}
    with SAMPLE.open("rb") as picture:
        response = httpx2.post(
            f"{stack.url}/segment",
            data=fields,
            files={"image_file": picture},
            headers=key_header(environ),
            timeout=SAMPLE_TIMEOUT_S,
            trust_env=False,
        )
    if response.status_code != httpx2.codes.OK:
        raise StackFailed(f"the sample was answered with {response.status_code}: {response.text}")
    answer = response.json()
    print(f"{'sample':<14} answered in {time.monotonic() - started:.1f} s   {SAMPLE_PROMPT}\n")
    print_objects(answer["masks"])
    OVERLAY.write_bytes(base64.b64decode(answer["overlay"]))
    print(f"\noverlay        {OVERLAY}")


def print_objects(masks: list[dict[str, Any]]) -> None:
    """A table of the objects of an answer."""
    print(f"{'object':<20} {'x_min y_min x_max y_max':>24}   {'score':>5}   {'mask score':>10}")
    for found in masks:
        box = " ".join(f"{value:>5}" for value in found["coordinates"])
        mask_score = "-" if found["mask_score"] is None else f"{found['mask_score']:.2f}"
        print(f"{found['label']:<20} {box:>24}   {found['score']:>5.2f}   {mask_score:>10}")


def key_header(environ: Mapping[str, str]) -> dict[str, str]:
    """The header with the first key of API_KEYS_FILE; empty where the gateway wants no key."""
    if not (file := environ.get("API_KEYS_FILE")):
        return {}
    lines = (line.strip() for line in Path(file).read_text(encoding="utf-8-sig").splitlines())
    first = next(line for line in lines if line and not line.startswith("#"))  # the gateway starts only with a key
    before, colon, after = first.partition(":")
    return {"X-API-Key": (after if colon else before).strip()}


def usage_lines(url: str, environ: Mapping[str, str]) -> list[str]:
    """How to use the stack: the page unless DOCS is off, the API's address, and a command to try."""
    page = [] if environ.get("DOCS") == "off" else [f"page           {url}/docs"]
    command = f"curl -s {url}/segment -F {shlex.quote(f'image_file=@{SAMPLE}')} -F 'prompt=segment blue star'"
    command += " -F return_image=false"
    key = []
    if environ.get("API_KEYS_FILE"):
        key = [f"key            set KEY to a key of {environ['API_KEYS_FILE']} for the command below"]
        command += ' -H "X-API-Key: $KEY"'
    return [*page, f"API            {url}/segment", *key, f"try            {command}", "serving until Ctrl-C"]


def serve(stack: Stack) -> None:
    """Waits for Ctrl-C, as long as everything runs."""
    while True:
        stack.check_serving()
        time.sleep(POLL_S)


def install_signal_handlers() -> threading.Event:
    """The first SIGINT or SIGTERM raises Stopped, which stops the stack cleanly; the second one sets the event."""
    signalled, at_once = threading.Event(), threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if signalled.is_set():
            at_once.set()
            return
        signalled.set()
        raise Stopped

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return at_once


if __name__ == "__main__":
    sys.exit(main())
