"""The chart's pods as processes of this host: their own commands and variables, until their own probes answer.

Paths of the image become paths of the repository and of a folder that stands for the volumes; ports become free ones.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from charts import Object, environment_of, image_environment, pod, ports_of, render, rendering
from hub_server import HubServer, Repository
from stack import DEMO_MODEL_ID, REPOSITORY, START_TIMEOUT_S, ChildProcess, answers_200, free_ports, wait_until

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
HEADLESS = "paligemma-triton-headless"


class Node:
    """Runs containers as processes.

    Attributes:
        ports: the port of this host for each port of the pods, by component and number.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = {
            "/app/models": str(folder / "models"),
            "/app/home": str(folder / "home"),
            "/etc/paligemma": str(folder / "secrets"),
            "/opt/demo": str(REPOSITORY / "models"),
            "/app": str(REPOSITORY),
        }
        for name in ("models", "home"):
            (folder / name).mkdir()
        triton = dict(zip((8000, 8001, 8002, 8003), free_ports(5), strict=False))
        (gateway,) = free_ports(1)
        self.ports = {"triton": triton, "gateway": {8000: gateway}}

    def here(self, text: str, component: str) -> str:
        """A word of a command or variable, as it must be on this host."""
        for path, local in self._paths.items():
            text = text.replace(f"{path}/", f"{local}/") if not text.endswith(path) else text.replace(path, local)
        for port, local_port in self.ports["triton"].items():
            text = text.replace(f"{HEADLESS}:{port}", f"127.0.0.1:{local_port}")
        if text.isdigit() and int(text) in self.ports[component]:
            return str(self.ports[component][int(text)])
        return {"python": sys.executable, "python3": sys.executable, "0.0.0.0": "127.0.0.1"}.get(text, text)

    def start(self, component: str, container: Object) -> ChildProcess:
        variables = {**image_environment(component), **environment_of(container)}
        environ = {name: self.here(value, component) for name, value in variables.items() if name != "PYTHONPATH"}
        command = [self.here(word, component) for word in [*container.get("command", []), *container["args"]]]
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        return ChildProcess(command, {**kept, **environ})

    def probe(self, component: str, container: Object, name: str) -> Callable[[], bool]:
        request = container[name]["httpGet"]
        port = self.ports[component][ports_of(container)[request["port"]]]
        return lambda: answers_200(f"http://127.0.0.1:{port}{request['path']}")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def hub(models_dir: Path) -> Iterator[HubServer]:
    with HubServer(tokens={"hf_good"}) as running:
        running.repositories["org/gated"] = Repository.of(models_dir / DEMO_MODEL_ID, gated=True)
        yield running


def test_every_probe_of_the_pods_answers(node: Node, sample_image: bytes) -> None:
    objects = rendering("values-cpu")
    triton, gateway = pod(objects, "triton"), pod(objects, "gateway")
    (weights,) = triton.spec["initContainers"]
    with node.start("triton", weights) as layout:
        assert layout.wait(60) == 0, layout.output
    with node.start("triton", triton.main) as server, node.start("gateway", gateway.main) as front:
        for component, container in (("gateway", gateway.main), ("triton", triton.main)):
            wait_until(node.probe(component, container, "livenessProbe"), 60, f"{component}: livenessProbe")
        for probe in PROBES:
            wait_until(node.probe("triton", triton.main, probe), START_TIMEOUT_S, f"triton: {probe}")
            wait_until(node.probe("gateway", gateway.main, probe), 30, f"gateway: {probe}")
        answer = httpx2.post(
            f"http://127.0.0.1:{node.ports['gateway'][8000]}/segment",
            data={"prompt": "segment blue star", "return_image": "false"},
            files={"image_file": sample_image},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        front.stop()
        assert server.stop() == 0, server.output


def test_weights_are_downloaded_with_the_token_of_the_secret(node: Node, hub: HubServer, tmp_path: Path) -> None:
    """The mask decoder's published weights are not on this hub, so the container fails after the checkpoint."""
    settings = ("modelId=org/gated", f"settings.HF_ENDPOINT={hub.url}", "hfToken.secretName=hub")
    (weights,) = pod(render(*(word for value in settings for word in ("--set", value))), "triton").spec[
        "initContainers"
    ]
    token = tmp_path / "secrets" / "hf-token" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_good\n")
    with node.start("triton", weights) as download:
        download.wait(60)
    assert "org/gated: complete in" in download.output
    assert "vae-oid.npz" in download.output
    assert (tmp_path / "models" / DEMO_MODEL_ID).is_symlink()
