"""The stack of the compose files: it answers, it is watched, it gives nothing away, it heals, it stops in order."""

import json
import re
import time
from collections import Counter
from datetime import UTC, datetime

import httpx2
import pytest
import tritonclient.grpc
import tritonclient.http
from containers import PROJECT, PROMPT, REQUEST_TIMEOUT_S, TOKEN, Compose, Load, docker, image
from stack import infer, wait_until

BACK_WITHIN_S = 60
CLEAR = re.compile(r"200|50[234] (unavailable|internal|overloaded|deadline|loading)")
NO_GATEWAY = re.compile(r"ConnectError|ReadError|RemoteProtocolError")  # nobody is there to say anything


def test_rest_and_triton_answer(compose: Compose, sample_image: bytes) -> None:
    response = httpx2.post(
        f"{compose.url}/segment",
        data={"prompt": PROMPT},
        files={"image_file": sample_image},
        timeout=REQUEST_TIMEOUT_S,
        trust_env=False,
    )
    assert response.status_code == 200
    assert [found["label"] for found in response.json()["masks"]] == ["blue star", "cyan ring"]
    for module, port in ((tritonclient.grpc, compose.ports.grpc), (tritonclient.http, compose.ports.http)):
        client = module.InferenceServerClient(f"127.0.0.1:{port}")
        assert infer(client, module, sample_image, PROMPT)["boxes"].shape == (2, 4)
        client.close()


def test_a_large_upload_needs_no_writable_root(compose: Compose) -> None:
    response = httpx2.post(
        f"{compose.url}/segment",
        data={"prompt": PROMPT},
        files={"image_file": b"no image" * 1_000_000},
        timeout=REQUEST_TIMEOUT_S,
        trust_env=False,
    )
    assert (response.status_code, response.json()["code"]) == (400, "invalid_image")


def test_prometheus_scrapes_everything(compose: Compose) -> None:
    url = f"http://127.0.0.1:{compose.prometheus_port}/api/v1/targets"

    def health() -> dict[str, str]:
        targets = httpx2.get(url, trust_env=False).json()["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in targets}

    wait_until(lambda: health() == dict.fromkeys(("triton", "supervisor", "gateway"), "up"), 30, "all targets up")


@pytest.mark.parametrize("service", ["triton", "gateway"])
def test_nobody_is_root_and_the_token_stays_a_file(compose: Compose, service: str) -> None:
    assert compose.inside(service, "id", "-u").strip() == "1000"
    assert compose.inside(service, "sh", "-c", "grep CapEff /proc/self/status").split()[1] == "0" * 16
    for said in (
        docker("history", "--no-trunc", image(service)),
        docker("inspect", image(service)),
        docker("inspect", f"{PROJECT}-{service}-1"),
        compose.inside(service, "env"),
    ):
        assert TOKEN not in said
        assert "HF_TOKEN" not in said


def test_only_triton_can_read_the_token(compose: Compose) -> None:
    assert compose.inside("triton", "cat", "/run/secrets/hf_token") == TOKEN
    assert "hf_token" not in compose.inside("gateway", "ls", "/run/secrets")


def test_the_gateways_root_is_read_only(compose: Compose) -> None:
    assert json.loads(compose.inspect("gateway", "{{json .HostConfig.ReadonlyRootfs}}")) is True
    assert "Read-only file system" in docker("exec", f"{PROJECT}-gateway-1", "touch", "/app/written", check=False)


@pytest.mark.parametrize(
    ("service", "process", "tolerated"),
    [
        ("triton", "/paligemma/1/model.py", CLEAR),
        ("triton", "tritonserver --model-repository", CLEAR),
        ("gateway", "python -m gateway", re.compile(f"{CLEAR.pattern}|{NO_GATEWAY.pattern}")),
    ],
    ids=["stub", "tritonserver", "gateway"],
)
def test_killed_under_load_it_comes_back(
    compose: Compose, sample_image: bytes, service: str, process: str, tolerated: re.Pattern[str]
) -> None:
    """Whatever was in flight ends with a clear status; nothing hangs; nobody has to do anything."""
    with Load(compose.url, sample_image) as load:
        wait_until(lambda: load.outcomes["200"] > 16, 60, "load runs")
        compose.kill(service, process)
        killed_at = time.monotonic()
        time.sleep(5)  # answers that were on their way do not count
        wait_until(lambda: load.answered_at[-1] > killed_at + 5, BACK_WITHIN_S, "answers again")
        back_after_s = min(at for at in load.answered_at if at > killed_at + 5) - killed_at
    print(f"{process}: answers again {back_after_s:.1f} s after; slowest {load.slowest_s:.1f} s; {dict(load.outcomes)}")
    assert back_after_s <= BACK_WITHIN_S
    assert load.slowest_s <= REQUEST_TIMEOUT_S
    assert not [outcome for outcome in load.outcomes if not tolerated.fullmatch(outcome)]


def accepted(compose: Compose, since: str) -> Counter[int]:
    """Requests to /segment in the gateway's log, by status."""
    lines = docker("logs", "--since", since, f"{PROJECT}-gateway-1").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return Counter(entry["status"] for entry in entries if entry.get("route") == "/segment")


def test_stopping_under_load_finishes_what_was_accepted(compose: Compose, sample_image: bytes) -> None:
    since = datetime.now(UTC).isoformat()
    with Load(compose.url, sample_image) as load:
        wait_until(lambda: load.outcomes["200"] > 16, 60, "load runs")
        before = load.outcomes["200"]
        compose("stop")
    print(f"{load.outcomes['200'] - before} answered after the stop was asked for; {dict(load.outcomes)}")
    # Docker's own proxy takes connections that the gateway never saw, so the gateway's log says what it accepted.
    assert accepted(compose, since) == Counter({200: load.outcomes["200"]})
    assert not [outcome for outcome in load.outcomes if not re.fullmatch(f"200|{NO_GATEWAY.pattern}", outcome)]
    for service in ("gateway", "triton"):
        assert compose.inspect(service, "{{.State.ExitCode}} {{.State.OOMKilled}}") == "0 false"
    compose.up()
