"""The compose files and Dockerfiles against what they start: every variable, every drain, every folder."""

import re
from dataclasses import fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import RUNBOOK, SETTINGS, first_cells

from gateway.__main__ import drain_s
from gateway.services import MAX_ENCODERS
from gateway.settings import Settings
from paligemma_engine.config import EngineConfig
from parts.label_studio.server import LABEL_STUDIO
from parts.serve.server import END_GRACE_S, EXIT_TIMEOUT_S
from serve import parse_arguments

REPOSITORY = Path(__file__).resolve().parent.parent.parent
COMPOSE_TEXT = (REPOSITORY / "docker-compose.yml").read_text()
CPU_TEXT = (REPOSITORY / "docker-compose.cpu.yml").read_text()
INTERPOLATED = re.compile(r"\$\{(\w+)")
GATEWAYS = {name.upper() for name in Settings.model_fields}
NOT_FOR_CONTAINERS = {"MODEL_DIR", "PYTHON", "REPLICAS"}  # an older name; the scripts' interpreter; demo.sh's Tritons
BY_FILE = {"HF_TOKEN", "HF_TOKEN_PATH"}  # the token is a secret, not a variable
FIXED = {"GATEWAY_HOST", "GATEWAY_PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT", "MODELS_DIR"}


class Loader(yaml.SafeLoader):
    """Knows compose's own tags, which take a setting of another file away."""


Loader.add_constructor("!reset", lambda _loader, _node: None)
COMPOSE: dict[str, Any] = yaml.load(COMPOSE_TEXT, Loader)
CPU: dict[str, Any] = yaml.load(CPU_TEXT, Loader)


def seconds(duration: str) -> float:
    found = re.fullmatch(r"(\d+)s", duration)
    assert found, duration
    return float(found[1])


def default_of(variable: str, text: str = COMPOSE_TEXT) -> set[str]:
    return set(re.findall(rf"\$\{{{variable}:-([^}}]*)\}}", text))


def test_every_setting_reaches_its_container() -> None:
    """As a variable; or as what compose itself does with it, such as a port."""
    triton, gateway = (set(COMPOSE["services"][name]["environment"]) for name in ("triton", "gateway"))
    settings = first_cells(SETTINGS)
    assert settings - NOT_FOR_CONTAINERS - BY_FILE - FIXED == (triton | gateway) & settings
    assert gateway >= GATEWAYS - FIXED
    interpolated = set(INTERPOLATED.findall(COMPOSE_TEXT))
    assert interpolated >= FIXED | {"HF_TOKEN", "API_KEYS_FILE"}


@pytest.mark.parametrize(
    ("hf_token", "source"),
    [("", {"file": "${HF_TOKEN_PATH:-/dev/null}"}), ("-variable", {"environment": "HF_TOKEN"})],
)
def test_the_token_is_a_secret_wherever_it_comes_from(hf_token: str, source: dict[str, str]) -> None:
    """Compose takes one source: HF_TOKEN where it is set, else a file. No container has it as a variable."""
    (included,) = COMPOSE["include"]
    assert included["project_directory"] == "."  # what a path of the host, and `.env`, are relative to
    text = (REPOSITORY / included["path"].replace("${HF_TOKEN:+-variable}", hf_token)).read_text()
    assert yaml.safe_load(text) == {"secrets": {"hf_token": source}}
    assert COMPOSE["services"]["triton"]["secrets"] == ["hf_token"]
    for service in COMPOSE["services"].values():
        assert not BY_FILE & set(service.get("environment", {}))


def test_no_default_stands_twice() -> None:
    """What is not said is left to the servers; what is said is theirs, too."""
    for name in ("triton", "gateway"):
        set_here = {key for key, value in COMPOSE["services"][name]["environment"].items() if value is not None}
        assert set_here <= {
            "MODEL_ID",
            "API_KEYS_FILE",
            "LABEL_STUDIO_API_KEY_FILE",
            "TRITON_GRPC_URL",
            "TRITON_METRICS_URL",
        }
    settings = Settings.model_fields
    assert default_of("MODEL_ID") == {settings["model_id"].default}
    assert default_of("MODEL_ID", CPU_TEXT) == {"paligemma2-demo-224"}
    assert default_of("GATEWAY_HOST") == {settings["gateway_host"].default}
    assert default_of("GATEWAY_PORT") == {str(settings["gateway_port"].default)}


def test_variables_of_compose_alone_are_in_the_runbook() -> None:
    compose_alone = set(INTERPOLATED.findall(COMPOSE_TEXT + CPU_TEXT)) - first_cells(SETTINGS)
    assert first_cells(RUNBOOK, "Settings") == compose_alone


def test_containers_are_given_the_time_that_they_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["serve.py"])
    triton = parse_arguments().drain_timeout_s + EXIT_TIMEOUT_S + END_GRACE_S
    assert seconds(COMPOSE["services"]["triton"]["stop_grace_period"]) > triton
    gateway = drain_s(Settings(label_studio_url="http://label-studio:8080"))
    assert seconds(COMPOSE["services"]["gateway"]["stop_grace_period"]) > gateway


def test_the_gateways_bounds_together_fit_its_memory() -> None:
    """Its own, a full budget of bodies, and a mask drawn by each encoder; tests/gateway/test_door.py measures."""
    (memory,) = default_of("GATEWAY_MEMORY")
    itself, copies = 150_000_000, 2.2
    (max_pixels,) = [field.default for field in fields(EngineConfig) if field.name == "max_image_pixels"]
    drawing_bytes = MAX_ENCODERS * 4 * max_pixels
    bodies = copies * Settings.model_fields["max_body_bytes_in_flight"].default
    assert itself + bodies + drawing_bytes < int(memory.removesuffix("g")) * 2**30


def test_label_studio_is_the_one_that_was_checked() -> None:
    service = COMPOSE["services"]["label-studio"]
    assert default_of("LABEL_STUDIO_TAG") == {LABEL_STUDIO.removeprefix("label-studio==")}
    assert service["environment"]["LABEL_STUDIO_USER_TOKEN"] == "${LABEL_STUDIO_API_KEY:-}"
    refused = [ip_network(text) for text in service["environment"]["USER_ADDITIONAL_BANNED_SUBNETS"].split(",")]
    assert not any(ip_address("172.18.0.3") in network for network in refused)
    special = (
        "192.0.0.192",
        "192.88.99.1",
        "198.18.0.1",
        "203.0.113.1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
    )
    for address in ("127.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254", *special):
        assert any(ip_address(address) in network for network in refused)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_bounded_and_local(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["restart"] == "unless-stopped"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert all(re.match(r"\$\{\w+_HOST:-127\.0\.0\.1\}:", port) for port in service["ports"])


def test_only_the_gateway_starts_late_and_writes_nothing() -> None:
    gateway = COMPOSE["services"]["gateway"]
    assert gateway["depends_on"] == {"triton": {"condition": "service_healthy"}}
    assert gateway["read_only"] is True
    assert (
        COMPOSE["services"]["gateway"]["user"] == COMPOSE["services"]["triton"]["user"] == "${UID:-1000}:${GID:-1000}"
    )


def test_the_cpu_file_takes_the_gpus_away_and_nothing_else() -> None:
    (device,) = COMPOSE["services"]["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    triton = CPU["services"]["triton"]
    assert triton.pop("deploy") == {"resources": {"reservations": {"devices": None}}}
    assert triton.pop("ulimits") is None
    assert [set(service) for service in CPU["services"].values()] == [{"environment"}, {"environment"}]


def test_no_secret_gets_into_an_image() -> None:
    """Neither as a variable nor as a file: what may enter a build is listed."""
    allowed = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert "*" in allowed
    assert {line for line in allowed if line.startswith("!")} == {
        "!constraints.txt",
        "!pyproject.toml",
        "!gateway/",
        "!model_repository/",
        "!models/paligemma2-demo-224/",
        "!models/vae-demo.npz",
        "!docs/sample.png",
        "!scripts/download.py",
        "!scripts/healthcheck.py",
        "!scripts/parts/",
        "!scripts/serve.py",
        "!scripts/verify.py",
    }
    for name in ("Dockerfile.triton", "Dockerfile.gateway"):
        text = (REPOSITORY / name).read_text()
        assert not re.search(r"TOKEN|PASSWORD|SECRET|KEY", text)
        assert re.search(r"^USER 1000:1000$", text, re.MULTILINE)
        assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)
        assert not re.search(r"==\d", text), "pins stand in pyproject.toml"
