"""demo.sh as its user runs it."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx2
import psutil
import pytest
from PIL import Image
from stack import REPOSITORY, ChildProcess, Ports, environment, wait_until

DEMO = [str(REPOSITORY / "scripts" / "demo.sh")]
OVERLAY = REPOSITORY / ".run" / "overlay.png"


def demo(ports: Ports, *options: str, **overrides: str) -> ChildProcess:
    return ChildProcess([*DEMO, *options], environment(ports, overrides))


def test_once(tmp_path: Path) -> None:
    """Phases with their durations, the sample's objects, a picture, and nothing left running.

    The sample was refused with 401 where the gateway has keys.
    """
    OVERLAY.unlink(missing_ok=True)
    keys = tmp_path / "keys"
    keys.write_text("# for the test\nalice:a-key\n")
    with demo(Ports.free(), "--once", API_KEYS_FILE=str(keys)) as run:
        family: set[psutil.Process] = set()
        while run.process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                family |= set(psutil.Process(run.process.pid).children(recursive=True))
            time.sleep(0.2)
        assert run.wait(5) == 0
    for phase in ("environment", "tritonserver", "triton", "gateway"):
        assert re.search(rf"^{phase} +ready in +[0-9.]+ s", run.output, re.MULTILINE), phase
    objects = re.findall(
        r"^(green diamond|blue star|yellow heart|cyan ring) +(?:\d+ +){4}0\.\d\d +0\.\d\d$", run.output, re.M
    )
    assert sorted(objects) == ["blue star", "cyan ring", "green diamond", "yellow heart"]
    assert f"overlay        {OVERLAY}" in run.lines
    with Image.open(OVERLAY) as overlay:
        assert overlay.size == (224, 224)
    assert len(family) > 5
    assert not [process for process in family if process.is_running()]


@pytest.mark.parametrize("variable", ["GATEWAY_PORT", "TRITON_GRPC_PORT"])
def test_a_port_in_use(variable: str) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with demo(Ports.free(), **{variable: str(port)}) as run:
            assert run.wait(60) == 1
            assert run.lines[-1] == f"error: port {port} is in use; set {variable} to another one"


def test_a_model_that_cannot_be_loaded() -> None:
    with demo(Ports.free(), VAE_CHECKPOINT="nowhere.npz") as run:
        assert run.wait(120) == 1
        assert "nowhere.npz: no such file; set VAE_CHECKPOINT" in run.output


def test_it_heals_and_ctrl_c_leaves_nothing(sample_image: bytes) -> None:
    ports = Ports.free()
    url = f"http://127.0.0.1:{ports.gateway}/segment"

    def status() -> int:
        with contextlib.suppress(httpx2.HTTPError):
            files = {"image_file": sample_image}
            return httpx2.post(url, data={"prompt": "blue star"}, files=files, timeout=20, trust_env=False).status_code
        return 0

    with demo(ports) as run:
        run.wait_for_line("^serving until Ctrl-C", 120)
        printed = run.wait_for_line("^try ", 1).removeprefix("try")
        curl = subprocess.run(["bash", "-c", printed], cwd="/", capture_output=True, timeout=60, check=True)
        assert [found["label"] for found in json.loads(curl.stdout)["masks"]] == ["blue star"]
        root = psutil.Process(run.process.pid)
        (stub,) = [
            child for child in root.children(recursive=True) if "/paligemma/1/model.py" in " ".join(child.cmdline())
        ]
        stub.kill()
        killed_at = time.monotonic()
        run.wait_for_line("^serve: the process of model paligemma died .* starting the server again", 10)
        assert status() in (0, 502, 503)
        wait_until(lambda: status() == 200, 60, "answers again")
        assert time.monotonic() - killed_at < 60
        family = root.children(recursive=True)
        assert run.stop(signal.SIGINT) == 0
        assert run.lines[-1] == "stopped"
        assert not [process for process in family if process.is_running()]
