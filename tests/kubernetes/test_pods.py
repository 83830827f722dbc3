"""Every pod of the chart: what it may do, what it is given, and that this fits the images."""

import re
from dataclasses import fields

import pytest
from charts import (
    RENDERINGS,
    Object,
    Pod,
    environment_of,
    image_command,
    image_environment,
    image_ports,
    kserve_objects,
    pod,
    pods,
    ports_of,
    rendering,
)
from documents import SETTINGS, first_cells

from gateway.__main__ import drain_s
from gateway.settings import Settings
from paligemma_engine.config import EngineConfig
from parts.serve.server import END_GRACE_S, EXIT_TIMEOUT_S
from serve import parse_arguments

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
GATEWAYS = {name.upper() for name in Settings.model_fields}
WRITTEN = {"/app/models", "/app/home", "/dev/shm", "/tmp"}  # what Dockerfile.triton opens, and what Triton writes


@pytest.fixture(params=RENDERINGS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendering(request.param)


def all_containers(objects: list[Object]) -> list[Object]:
    return [container for found in pods(objects) for container in found.containers]


def test_every_container_is_bounded(objects: list[Object]) -> None:
    for container in all_containers(objects):
        resources = container["resources"]
        assert resources["limits"].keys() >= {"memory"}
        assert resources["requests"].keys() >= {"cpu", "memory"}


def test_every_pod_meets_the_restricted_standard(objects: list[Object]) -> None:
    """Pod Security Standards, level restricted; a folder of the node is the one thing that it forbids."""
    for found in pods(objects):
        security = found.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 1000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not found.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for container in found.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))
        kinds = {kind for volume in found.spec.get("volumes", []) for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "secret", "hostPath"}
        assert ("hostPath" in kinds) == (objects == rendering("hostPath") and "gateway" not in found.owner)


def test_no_pod_has_the_clusters_credentials(objects: list[Object]) -> None:
    for found in pods(objects):
        assert found.spec["automountServiceAccountToken"] is False


def test_no_secret_is_a_variable(objects: list[Object]) -> None:
    """Secrets are files, which no child process inherits and no crash report prints."""
    for container in all_containers(objects):
        assert "envFrom" not in container
        for variable in container.get("env", []):
            assert variable.keys() == {"name", "value"}
            secret = re.search(r"TOKEN|KEY|SECRET|PASSWORD", variable["name"])
            assert not secret or variable["value"].startswith("/etc/paligemma/")


def test_servers_have_all_probes_at_ports_that_they_name(objects: list[Object]) -> None:
    for found in pods(objects):
        if found.owner.startswith("Deployment"):
            for probe in PROBES:
                assert found.main[probe]["httpGet"]["port"] in ports_of(found.main)
            assert found.main["lifecycle"]["preStop"]["sleep"]["seconds"] > 0


@pytest.mark.parametrize("component", ["triton", "gateway"])
def test_commands_and_ports_are_the_images(component: str, objects: list[Object]) -> None:
    main = pod(objects, component).main
    assert "command" not in main, "it would replace the entrypoint of NVIDIA's image"
    assert main["args"] == image_command(component)
    assert set(ports_of(main).values()) == image_ports(component)


@pytest.mark.parametrize("component", ["triton", "gateway"])
def test_every_variable_is_a_setting(component: str, objects: list[Object]) -> None:
    documented = first_cells(SETTINGS)
    for container in pod(objects, component).containers:
        environment = environment_of(container)
        assert environment.keys() <= documented
        assert len(environment) == len(container["env"]), "a variable stands twice"
        if component == "triton":
            EngineConfig.from_env(environment)
        else:
            assert environment.keys() <= GATEWAYS | first_cells(SETTINGS, "Models") | first_cells(SETTINGS, "Engine")
            Settings(**{name.lower(): value for name, value in environment.items() if name in GATEWAYS})


def test_settings_reach_the_part_that_they_are_for() -> None:
    objects = rendering("values-multi-gpu")
    triton, gateway = (environment_of(pod(objects, name).main) for name in ("triton", "gateway"))
    assert triton["ALLOWED_MODEL_IDS"] == gateway["ALLOWED_MODEL_IDS"] == "google/paligemma2-3b-mix-448"
    assert triton["MAX_EXTRA_MODELS"] == "0"
    assert "MAX_EXTRA_MODELS" not in gateway
    assert triton["MODEL_ID"] == gateway["MODEL_ID"]


def test_the_default_model_is_the_servers() -> None:
    (default,) = [field.default for field in fields(EngineConfig) if field.name == "model_id"]
    assert environment_of(pod(rendering("values"), "triton").main)["MODEL_ID"] == default


def mounts(found: Pod, container: Object) -> dict[str, Object]:
    """The volume at each path."""
    volumes = {volume["name"]: volume for volume in found.spec.get("volumes", [])}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in container.get("volumeMounts", [])}


def test_everything_that_is_written_is_a_volume(objects: list[Object]) -> None:
    """Root file systems are read-only."""
    environment = image_environment("triton")
    triton = pod(objects, "triton")
    mounted = mounts(triton, triton.main)
    assert mounted.keys() - {"/etc/paligemma/hf-token"} == WRITTEN
    assert environment["MODELS_DIR"] == "/app/models"
    assert environment["TORCHINDUCTOR_CACHE_DIR"].startswith("/app/models/")
    assert environment["HOME"] == "/app/home"
    assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    for found in pods(objects):
        used = {volume["name"] for container in found.containers for volume in mounts(found, container).values()}
        assert used == {volume["name"] for volume in found.spec.get("volumes", [])}


@pytest.mark.parametrize("name", ["values-multi-gpu", "secrets"])
def test_paths_of_secrets_are_mounted(name: str) -> None:
    objects = rendering(name)
    for component, variable in (("triton", "HF_TOKEN_PATH"), ("gateway", "API_KEYS_FILE")):
        found = pod(objects, component)
        for container in found.containers:
            folder, file = environment_of(container)[variable].rsplit("/", 1)
            secret = mounts(found, container)[folder]["secret"]
            assert [item["path"] for item in secret["items"]] == [file]
            assert secret["defaultMode"] == 0o440  # user 1000 reads it through the pod's fsGroup


def test_pods_are_given_the_time_that_they_drain(objects: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["serve.py"])
    triton, gateway = (pod(objects, name) for name in ("triton", "gateway"))
    drains = {
        "triton": parse_arguments().drain_timeout_s + EXIT_TIMEOUT_S + END_GRACE_S,
        "gateway": drain_s(
            Settings(
                request_timeout_s=float(environment_of(gateway.main)["REQUEST_TIMEOUT_S"]),
                label_studio_url="http://label-studio:8080",  # which the chart's settings may name
            )
        ),
    }
    for name, found in (("triton", triton), ("gateway", gateway)):
        paused = found.main["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert found.spec["terminationGracePeriodSeconds"] > paused + drains[name]


def test_a_start_has_time_for_what_it_does() -> None:
    """An init container downloads before the probes begin; they wait for loading, compiling and the first answer."""
    main = pod(rendering("values"), "triton").main
    startup = main["startupProbe"]
    assert startup["httpGet"] == {"path": "/ready", "port": "supervisor"}
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 1800
    assert main["livenessProbe"]["httpGet"]["path"] == "/metrics", "/ready fails while a Triton is started again"


def test_a_cpu_profile_asks_for_no_gpu() -> None:
    limits = {name: pod(rendering(name), "triton").main["resources"]["limits"] for name in RENDERINGS}
    assert limits["values"]["nvidia.com/gpu"] == 1
    assert limits["values-multi-gpu"]["nvidia.com/gpu"] == 2
    assert limits["mig"]["nvidia.com/mig-3g.40gb"] == 1
    assert limits["values-cpu"].keys() == {"memory"}


def test_kserves_runtime_is_the_charts_pod() -> None:
    """What differs is KServe's: the container's name, its one port, and a longer start that includes the download."""
    (runtime,) = [found["spec"] for found in kserve_objects() if found["kind"] == "ServingRuntime"]
    (container,) = runtime["containers"]
    main = pod(rendering("secrets"), "triton").main
    for word in ("args", "lifecycle", "volumeMounts", "image"):
        assert container[word] == main[word], word
    assert container["securityContext"].items() >= main["securityContext"].items()
    assert container["securityContext"]["runAsNonRoot"] is True
    ports = ports_of(main)
    for probe in PROBES:
        theirs, ours = container[probe]["httpGet"], main[probe]["httpGet"]
        assert theirs == {"path": ours["path"], "port": ports["supervisor"]}
    assert [port["containerPort"] for port in container["ports"]] == [ports["grpc"]]
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 3600
