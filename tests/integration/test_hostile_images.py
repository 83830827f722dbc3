"""Damaged images and bombs through the whole stack: refused or answered, in time, in little memory.

FUZZED_IMAGES=2000 ./scripts/test.sh tests/integration/test_hostile_images.py      for a longer look
"""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from hostile_images import bombs, damaged_images

COUNT = int(os.environ.get("FUZZED_IMAGES", "400"))
CLIENTS = 4
ANSWER_TIMEOUT_S = 60.0  # REQUEST_TIMEOUT_S's default
MAX_GATEWAY_BYTES = 250e6
MAX_ENGINE_BYTES = 1.5e9


@pytest.fixture(scope="module")
def client(stack: Any) -> Any:
    with httpx2.Client(base_url=stack.url, timeout=ANSWER_TIMEOUT_S, trust_env=False) as client:
        yield client


def ask(client: Any, image: bytes) -> tuple[int, str | None, float]:
    started = time.monotonic()
    fields = {"prompt": "detect blue star", "max_new_tokens": "4", "return_image": "false"}
    response = client.post("/segment", data=fields, files={"image_file": image})
    return response.status_code, response.json().get("code"), time.monotonic() - started


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def engine_pid(stack: Any) -> int:
    children = psutil.Process(stack.supervisor_pid).children(recursive=True)
    (stub,) = [child for child in children if "/paligemma/1/model.py" in " ".join(child.cmdline())]
    return int(stub.pid)


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_at_once(client: Any, name: str) -> None:
    status, code, seconds = ask(client, bombs()[name])
    assert (status, code) in ((413, "image_too_large"), (400, "invalid_image"))
    assert seconds < 2.0


def test_damaged_images_harm_nobody(client: Any, stack: Any, sample_image: bytes) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda image: ask(client, image), damaged_images(COUNT)))
    print(f"{Counter(answer[:2] for answer in answers)}, slowest {max(answer[2] for answer in answers):.2f} s")
    print(f"peak: gateway {peak_bytes(stack.gateway_pid) / 1e6:.0f} MB", end=", ")
    print(f"engine {peak_bytes(engine_pid(stack)) / 1e6:.0f} MB")
    assert {answer[:2] for answer in answers} <= {(200, None), (400, "invalid_image"), (413, "image_too_large")}
    assert ask(client, sample_image)[0] == 200
    assert peak_bytes(stack.gateway_pid) < MAX_GATEWAY_BYTES
    assert peak_bytes(engine_pid(stack)) < MAX_ENGINE_BYTES
