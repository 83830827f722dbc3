"""The chart's pods with the real images, as a kubelet starts them: restricted, on read-only root file systems, with
empty volumes, until their own probes answer."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from charts import Object, Pod, environment_of, pod, ports_of, rendering
from containers import docker, image
from stack import wait_until

START_TIMEOUT_S = 300
PROBES = ("livenessProbe", "startupProbe", "readinessProbe")
UNITS = {"Gi": "g", "Mi": "m"}


class Node:
    """Runs the containers of pods with Docker, in a network where a Service's name is the pod's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._network = f"paligemma-pods-{secrets.token_hex(4)}"
        self._started: list[str] = []
        docker("network", "create", self._network)

    def close(self) -> None:
        for name in self._started:
            docker("rm", "--force", name)
        docker("network", "rm", self._network)

    def run(self, component: str, found: Pod, container: Object, *options: str) -> str:
        """Starts one container; returns its name, or with --rm what it says."""
        security, own = found.spec["securityContext"], container["securityContext"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        arguments = [
            "--read-only",
            f"--user={security['runAsUser']}:{security['runAsGroup']}",
            *(f"--cap-drop={name}" for name in own["capabilities"]["drop"]),
            "--security-opt=no-new-privileges",
            f"--network={self._network}",
            f"--memory={self._size(container['resources']['limits']['memory'])}",
            *(f"--env={name}={value}" for name, value in environment_of(container).items()),
            *self._mounts(found, container),
        ]
        command = container.get("command", [])
        if command:
            arguments.append(f"--entrypoint={command[0]}")
        return docker("run", *options, *arguments, image(component), *command[1:], *container["args"]).strip()

    def start(self, component: str, found: Pod, alias: str) -> str:
        name = f"{self._network}-{component}"
        self._started.append(name)
        self.run(component, found, found.main, "--detach", f"--name={name}", f"--network-alias={alias}")
        return name

    def _mounts(self, found: Pod, container: Object) -> Iterator[str]:
        volumes = {volume["name"]: volume["emptyDir"] for volume in found.spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            if mount["mountPath"] == "/dev/shm":
                assert volume["medium"] == "Memory"
                yield f"--shm-size={self._size(volume['sizeLimit'])}"
                continue
            folder = self._folder / mount["name"]
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)
            yield f"--volume={folder}:{mount['mountPath']}"

    @staticmethod
    def _size(quantity: str) -> str:
        return quantity[:-2] + UNITS[quantity[-2:]]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    running = Node(tmp_path)
    yield running
    running.close()


def answers(name: str, component: str, container: Object, probe: str) -> bool:
    """Asked from within, as a kubelet does from its node."""
    request = container[probe]["httpGet"]
    url = f"http://127.0.0.1:{ports_of(container)[request['port']]}{request['path']}"
    script = {"triton": ("python3", "/app/scripts/healthcheck.py"), "gateway": ("python", "/app/healthcheck.py")}
    said = docker("exec", name, *script[component], url, check=False)
    assert "is not running" not in said, docker("logs", "--tail=40", name)
    return said == ""


def test_restricted_pods_start_and_answer_their_probes(node: Node) -> None:
    objects = rendering("values-cpu")
    triton, gateway = pod(objects, "triton"), pod(objects, "gateway")
    (weights,) = triton.spec["initContainers"]
    node.run("triton", triton, weights, "--rm")
    server = node.start("triton", triton, "paligemma-triton-headless")
    front = node.start("gateway", gateway, "paligemma-gateway")
    for probe in PROBES:
        for name, component, found in ((server, "triton", triton), (front, "gateway", gateway)):
            wait_until(
                lambda: answers(name, component, found.main, probe),  # noqa: B023  # called before the loop goes on
                START_TIMEOUT_S,
                f"{component}: {probe}",
            )
