"""Models by id on a real Triton, from a local hub: what a caller sees, and that the others do not notice."""

import dataclasses
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.grpc
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from hub_server import HubServer, Repository
from stack import (
    START_TIMEOUT_S,
    ChildProcess,
    Ports,
    answers_200,
    gateway,
    infer,
    published_metrics,
    serve,
    wait_until,
)
from tritonclient.utils import InferenceServerException

TOKEN = "hf_ofsomebodywhoaccepted"
PROMPT = "segment blue star"


@dataclass(frozen=True)
class Served:
    hub: HubServer
    server: ChildProcess
    ports: Ports
    client: Any

    def ask(self, image: bytes, model_id: str | None = None, **options: Any) -> dict[str, np.ndarray]:
        return infer(self.client, tritonclient.grpc, image, PROMPT, model_id=model_id, **options)

    def refusal(self, image: bytes, model_id: str, **options: Any) -> str:
        with pytest.raises(InferenceServerException) as caught:
            self.ask(image, model_id, **options)
        return f"{caught.value.status()} {caught.value.message()}"

    def gauge(self, family: str) -> dict[str, str]:
        text = published_metrics(self.ports)
        samples = re.findall(rf"^{family}{{(.*)}} (\S+)$", text, re.MULTILINE)
        return {re.findall('model_id="([^"]+)"', labels)[0]: value for labels, value in samples}


@pytest.fixture(scope="module")
def served(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    for name in (DEMO_MODEL_ID, "vae-demo.npz"):
        (folder / name).symlink_to(models_dir / name)
    made = make_random_checkpoint(folder / "made", models_dir / DEMO_MODEL_ID)
    ports = Ports.free()
    with HubServer(tokens={TOKEN}) as hub:
        hub.repositories["org/demo"] = Repository.of(models_dir / DEMO_MODEL_ID)
        hub.repositories["org/slow"] = Repository.of(made)
        hub.repositories["org/slower"] = Repository.of(made)
        hub.repositories["org/gated"] = Repository.of(made, gated=True)
        hub.repositories["org/damaged"] = Repository.of(made, corrupt=True)
        hub.repositories["org/pickled"] = Repository({"config.json": b'{"model_type": "paligemma"}', "model.bin": b"x"})
        overrides = {"MODELS_DIR": str(folder), "ALLOWED_MODEL_IDS": "org/*", "HF_ENDPOINT": hub.url}
        with serve(ports, **overrides, HF_HOME=str(folder / "home")) as server, gateway(ports):
            server.wait_for_line("^serve: ready", START_TIMEOUT_S)
            wait_until(lambda: answers_200(f"http://127.0.0.1:{ports.gateway}/readyz"), 20, "gateway ready")
            client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports.grpc}")
            yield Served(hub, server, ports, client)
            client.close()


def post(ports: Ports, image: bytes, model_id: str) -> Any:
    return httpx2.post(
        f"http://127.0.0.1:{ports.gateway}/segment",
        data={"prompt": PROMPT, "model_id": model_id},
        files={"image_file": image},
        timeout=60,
        trust_env=False,
    )


def test_a_model_of_the_hub_answers_and_the_gauges_name_it(served: Served, sample_image: bytes) -> None:
    """The demo model under another name: the answers are the same."""
    from_hub, own = served.ask(sample_image, "org/demo"), served.ask(sample_image)
    assert from_hub["text"][0] == own["text"][0] != b""
    both = {DEMO_MODEL_ID, "org/demo"}
    assert served.gauge("paligemma_models_loaded") == dict.fromkeys(both, "1")
    assert served.gauge("paligemma_models_loading") == dict.fromkeys(both, "0")


@pytest.mark.parametrize(
    ("model_id", "said"),
    [
        ("../made", "StatusCode.NOT_FOUND .*[model_not_allowed]"),
        ("other/model", "StatusCode.NOT_FOUND .*[model_not_allowed] this server serves paligemma2-demo-224 and org/*"),
        ("org/nothing", "StatusCode.NOT_FOUND .*[model_gated] the hub refuses org/nothing (status 401): check the id"),
        ("org/demo@v9", "StatusCode.NOT_FOUND .*[model_not_found] org/demo has no revision v9"),
        ("org/gated", "StatusCode.NOT_FOUND .*[model_gated] org/gated is gated: accept its licence at"),
        ("org/pickled", "StatusCode.INTERNAL .*[model_failed] org/pickled has no model.safetensors on the hub"),
        ("org/damaged", "StatusCode.INTERNAL .*[hub_failed] org/damaged: model.safetensors came with a wrong checksum"),
    ],
)
def test_each_failure_has_its_code_and_the_server_lives_on(
    served: Served, sample_image: bytes, model_id: str, said: str
) -> None:
    pattern = re.escape(said).replace(re.escape(".*"), ".*")
    assert re.match(pattern, served.refusal(sample_image, model_id))
    assert TOKEN not in served.server.output
    assert served.ask(sample_image)["text"][0]


@pytest.mark.parametrize(
    ("model_id", "status", "code"),
    [
        ("other/model", 403, "model_not_allowed"),
        ("org/gated", 403, "model_gated"),
        ("org/demo@v9", 404, "model_not_found"),
        ("org/pickled", 502, "model_failed"),
        ("org/damaged", 502, "hub_failed"),
    ],
)
def test_the_codes_reach_callers_of_the_gateway(
    served: Served, sample_image: bytes, model_id: str, status: int, code: str
) -> None:
    response = post(served.ports, sample_image, model_id)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_while_a_model_is_fetched_the_others_do_not_wait(served: Served, sample_image: bytes) -> None:
    slow = served.hub.repositories["org/slow"]
    slow.may_send.clear()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(served.ask(sample_image, "org/slow", max_new_tokens=8)))
    asking.start()
    assert slow.sending.wait(60)
    for _ in range(3):
        assert served.ask(sample_image)["text"][0]
    assert answers_200(f"http://127.0.0.1:{served.ports.http}/v2/health/ready")
    assert "StatusCode.UNAVAILABLE" in (late := served.refusal(sample_image, "org/slow", timeout=200_000))
    assert "[loading]" in late
    assert answers == []
    slow.may_send.set()
    asking.join(60)
    assert answers
    loaded = served.gauge("paligemma_models_loaded")
    assert (loaded[DEMO_MODEL_ID], loaded["org/slow"], loaded.get("org/demo", "0")) == ("1", "1", "0")


def test_whoever_waits_too_long_for_a_load_is_told_when_to_come_back(served: Served, sample_image: bytes) -> None:
    """Through a gateway of less patience; the download goes on."""
    ports = dataclasses.replace(served.ports, gateway=Ports.free().gateway)
    slower = served.hub.repositories["org/slower"]
    with gateway(ports, REQUEST_TIMEOUT_S="1"):
        wait_until(lambda: answers_200(f"http://127.0.0.1:{ports.gateway}/readyz"), 20, "gateway ready")
        slower.may_send.clear()
        response = post(ports, sample_image, "org/slower")
        assert (response.status_code, response.json()["code"]) == (503, "loading")
        assert int(response.headers["retry-after"]) > 0
        models = httpx2.get(f"http://127.0.0.1:{ports.gateway}/models", trust_env=False).json()
        assert models["loading"] == ["org/slower"]
        slower.may_send.set()
    assert served.ask(sample_image, "org/slower", max_new_tokens=8)["text"].shape == (1,)


def test_a_failure_is_not_repeated_for_every_request(served: Served, sample_image: bytes) -> None:
    files = served.hub.repositories["org/damaged"].files
    served.hub.repositories["org/damaged-again"] = Repository(files, corrupt=True)
    sent = served.hub.requests["model.safetensors"]
    first, second = (served.refusal(sample_image, "org/damaged-again") for _ in range(2))
    assert "came with a wrong checksum and was thrown away; try again; the server tries it again in 60 s" in first
    assert re.search("the server tries it again in [0-9]+ s at the earliest", second)
    assert served.hub.requests["model.safetensors"] == sent + 1
