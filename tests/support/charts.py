"""The chart for tests: what helm renders, object by object, and what of it runs in pods."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack import REPOSITORY

Object = dict[str, Any]

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
CHART = KUBERNETES / "paligemma"
KSERVE = KUBERNETES / "kserve"
RELEASE = "paligemma"
NAMESPACE = "vision"
PROFILES = ("values", "values-cpu", "values-multi-gpu")
VARIANTS = {
    "hpa": ("triton.autoscaling.kind=hpa", "cache.accessModes={ReadWriteMany}"),
    "ingress": (
        "ingress.enabled=true",
        "ingress.hostname=a.example",
        "ingress.tlsSecretName=tls",
        "ingress.className=x",
    ),
    "hostPath": ("cache.kind=hostPath", "triton.replicas=3", "triton.maxSurge=1", "triton.runtimeClassName=nvidia"),
    "secrets": ("hfToken.secretName=hub", "gateway.apiKeys.secretName=keys", "images.pullSecrets[0].name=pull"),
    "mig": ("triton.gpu.resource=nvidia.com/mig-3g.40gb", "triton.priorityClassName=high"),
    "digests": (f"images.tritonDigest=sha256:{'a' * 64}", "cache.existingClaim=mine"),
    "networks": (
        "gateway.settings.URL_FETCH_ALLOWED_NETWORKS=10.1.0.0/16\\, 10.2.0.0/16",
        "networkPolicy.hubNetworks={10.3.0.0/16}",
        "networkPolicy.tracesNetworks={10.4.0.0/16}",
        "networkPolicy.gatewayCallers[0].podSelector.matchLabels.app=proxy",
    ),
    "no-fetching": ("gateway.settings.URL_FETCH=off",),
    "closed": ("networkPolicy.enabled=false", "settings.ALLOWED_MODEL_IDS=a"),
}
RENDERINGS = (*PROFILES, *VARIANTS)


def helm() -> str:
    found = shutil.which("helm") or shutil.which("helm", path=REPOSITORY / ".tools" / "helm")
    if found is None:
        pytest.skip("helm is not installed; ./scripts/test.sh and ./scripts/check.sh fetch it")
    return found


def run_helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([helm(), *arguments], capture_output=True, text=True, timeout=60, check=False)


@cache
def render(*arguments: str) -> list[Object]:
    """The objects of the chart with helm's options; all tests share them, so nobody may change them."""
    done = run_helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments)
    assert done.returncode == 0, done.stderr
    return [rendered for rendered in yaml.safe_load_all(done.stdout) if rendered]


def rendering(name: str) -> list[Object]:
    """One of RENDERINGS: the profiles are files, the variants are values over the default ones."""
    if name in PROFILES:
        return render("--values", str(CHART / f"{name}.yaml"))
    return render(*(word for setting in VARIANTS[name] for word in ("--set", setting)))


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [rendered for rendered in objects if rendered["kind"] == kind]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [rendered for rendered in of_kind(objects, kind) if rendered["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Pod:
    """A pod template of an object.

    Attributes:
        owner: kind and component, such as `Deployment triton`.
    """

    owner: str
    labels: dict[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def main(self) -> Object:
        (container,) = self.spec["containers"]
        return dict(container)


def pods(objects: list[Object]) -> Iterator[Pod]:
    for rendered in objects:
        if rendered["kind"] in ("Deployment", "Job"):
            template = rendered["spec"]["template"]
            labels = template["metadata"]["labels"]
            owner = f"{rendered['kind']} {labels['app.kubernetes.io/component']}"
            yield Pod(owner, labels, template["spec"])


def pod(objects: list[Object], component: str) -> Pod:
    (found,) = [found for found in pods(objects) if found.owner == f"Deployment {component}"]
    return found


def environment_of(container: Object) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


def ports_of(container: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def dockerfile(component: str) -> str:
    return (REPOSITORY / f"Dockerfile.{component}").read_text()


def image_command(component: str) -> list[str]:
    """The CMD of an image."""
    found = re.search(r"^CMD (\[.*\])$", dockerfile(component), re.MULTILINE)
    assert found
    return list(yaml.safe_load(found[1]))


def image_environment(component: str) -> dict[str, str]:
    """The variables that an image sets."""
    joined = dockerfile(component).replace("\\\n", " ")
    lines = re.findall(r"^ENV (.*)$", joined, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def image_ports(component: str) -> set[int]:
    found = re.search(r"^EXPOSE (.*)$", dockerfile(component), re.MULTILINE)
    assert found
    return {int(port) for port in found[1].split()}


def kserve_objects() -> list[Object]:
    return [yaml.safe_load(path.read_text()) for path in sorted(Path(KSERVE).glob("*.yaml"))]
