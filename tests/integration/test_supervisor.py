"""The supervisor over a real Triton: what it says and does when something cannot start, dies, hangs, or is to stop."""

import contextlib
import re
import shutil
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.grpc
from stack import (
    CALL_TIMEOUT_S,
    REPOSITORY,
    START_TIMEOUT_S,
    ChildProcess,
    Ports,
    answers_200,
    free_ports,
    gateway,
    infer,
    serve,
    wait_until,
)
from tritonclient.utils import InferenceServerException


def family_of(server: ChildProcess) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def server_of(server: ChildProcess) -> psutil.Process:
    (found,) = [child for child in family_of(server) if child.name() == "tritonserver"]
    return found


def stub_of(server: ChildProcess, model: str) -> psutil.Process:
    (stub,) = [child for child in family_of(server) if f"/{model}/1/model.py" in " ".join(child.cmdline())]
    return stub


def shared_memory_prefix(server: ChildProcess) -> str:
    found = re.search(r"shm-region-prefix-name=(\w+)", " ".join(server_of(server).cmdline()))
    assert found
    assert shared_memory(found[1])
    return found[1]


def shared_memory(*prefixes: str) -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(prefixes)]


def repository_of(folder: Path, model: str) -> tuple[str, str]:
    """The option for a repository with one model only, which starts sooner."""
    (folder / model).symlink_to(REPOSITORY / "model_repository" / model)
    return "--model-repository", str(folder)


def answers(ports: Ports, image: bytes) -> bool:
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports.grpc}")
    try:
        answer = infer(client, tritonclient.grpc, image, "segment blue star", client_timeout=10)
        return bool(len(answer["boxes"]) == 1)
    except InferenceServerException:
        return False
    finally:
        client.close()


def test_killed_stub_and_server_come_back(sample_image: bytes) -> None:
    """kill -9 of each process that the service stands on: noticed within 10 s, and requests answered within 60 s."""
    ports, prefixes = Ports.free(), []
    (metrics_port,) = free_ports(1)
    with serve(ports, "--restart", "--metrics-port", str(metrics_port)) as server, gateway(ports):
        server.wait_for_line("^serve: ready", START_TIMEOUT_S)
        for find_victim, said in (
            (
                lambda: stub_of(server, "paligemma"),
                r"^serve: the process of model paligemma died \(pid \d+\); starting",
            ),
            (lambda: server_of(server), r"^serve: tritonserver died \(status -9\); starting"),
        ):
            known, family = len(server.lines), family_of(server)
            prefixes.append(shared_memory_prefix(server))
            find_victim().kill()
            killed_at = time.monotonic()
            server.wait_for_line(said, 10, after=known)
            server.wait_for_line("^serve: ready", 60, after=known)
            wait_until(lambda: answers(ports, sample_image), 60, "answers again")
            assert time.monotonic() - killed_at < 60
            wait_until(lambda: answers_200(f"http://127.0.0.1:{ports.gateway}/readyz"), 10, "gateway ready again")
            assert not [process for process in family if process.is_running()]
        prefixes.append(shared_memory_prefix(server))
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as response:
            assert b"\nsupervisor_restarts_total 2\n" in response.read()
    assert not shared_memory(*prefixes)


def test_without_restart_a_dead_stub_ends_the_server(tmp_path: Path) -> None:
    ports = Ports.free()
    with serve(ports, *repository_of(tmp_path, "token_parser")) as server:
        server.wait_for_line("^serve: ready", START_TIMEOUT_S)
        family = family_of(server)
        stub_of(server, "token_parser").kill()
        assert server.wait(20) == 1
        assert server.lines[-2].startswith("serve: the process of model token_parser died")
        assert server.lines[-1] == "serve: the server has been ended"
        assert not [process for process in family if process.is_running()]


def test_a_stuck_engine_is_noticed(tmp_path: Path) -> None:
    """SIGSTOP: the process is there, Triton says ready, and nothing would ever be answered."""
    ports = Ports.free()
    with serve(ports, "--stall-timeout-s", "3", *repository_of(tmp_path, "paligemma")) as server:
        server.wait_for_line("^serve: ready", START_TIMEOUT_S)
        stub_of(server, "paligemma").send_signal(signal.SIGSTOP)
        assert server.wait(30) == 1
        assert "engine paligemma_0_0 is stuck: no sign of life for" in server.lines[-2]


def test_a_model_that_dies_when_it_answers_is_never_called_ready(tmp_path: Path) -> None:
    """As the Python 3.12 stub of Triton 2.51 does when an answer is sent from a thread; Triton stays ready."""
    repository = tmp_path / "model_repository"
    shutil.copytree(REPOSITORY / "model_repository", repository)
    responder = repository / "paligemma" / "1" / "responder.py"
    text = responder.read_text()
    assert text.count("self._sender.send(") == 1
    responder.write_text(text.replace("self._sender.send(", "(lambda *_, **__: __import__('os').abort())("))
    (metrics_port,) = free_ports(1)
    options = ("--restart", "--metrics-port", str(metrics_port), "--model-repository", str(repository))
    with serve(Ports.free(), *options) as server:
        asked: set[bool] = set()
        while server.process.poll() is None:
            asked.add(answers_200(f"http://127.0.0.1:{metrics_port}/ready"))
            time.sleep(0.2)
        assert asked == {False}
        assert server.wait(START_TIMEOUT_S) == 1
    said = server.lines[-3:]
    assert re.match(r"serve: the process of model paligemma died at the first request \(pid \d+\)$", said[0])
    assert "Python 3.10 and 3.11" in said[1]
    assert said[2] == "serve: the server has been ended"


def test_a_killed_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    ports = Ports.free()
    with serve(ports, *repository_of(tmp_path, "token_parser")) as server:
        server.wait_for_line("^serve: ready", START_TIMEOUT_S)
        family, prefix = family_of(server), shared_memory_prefix(server)
        server.process.kill()
        _gone, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, [process.cmdline() for process in alive]
    wait_until(lambda: not shared_memory(prefix), 5, "shared memory cleared")


def test_stopping_lets_running_requests_end(sample_image: bytes) -> None:
    """Direct requests in flight when the server stops get an answer or UNAVAILABLE; afterwards nothing is left."""
    ports = Ports.free()
    outcomes: list[str] = []
    first_is_answered = threading.Event()

    def ask(client: Any) -> None:
        try:
            answer = infer(client, tritonclient.grpc, sample_image, "segment blue star ; cyan ring", client_timeout=60)
            outcomes.append(f"{len(answer['boxes'])} objects")
        except InferenceServerException as error:
            outcomes.append(str(error.status()))
        first_is_answered.set()

    with serve(ports) as server:
        server.wait_for_line("^serve: ready", START_TIMEOUT_S)
        family, prefix = family_of(server), shared_memory_prefix(server)
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports.grpc}")
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(24)]
        for thread in threads:
            thread.start()
        assert first_is_answered.wait(CALL_TIMEOUT_S)
        assert server.stop() == 0
        for thread in threads:
            thread.join(CALL_TIMEOUT_S)
            assert not thread.is_alive(), "a request hangs"
        client.close()
        assert server.lines[-1] == "serve: stopped"
        assert not [process for process in family if process.is_running()]
    assert len(outcomes) == 24
    assert set(outcomes) <= {"2 objects", "StatusCode.UNAVAILABLE"}
    assert outcomes.count("2 objects") >= 4
    assert not shared_memory(prefix)


@pytest.mark.parametrize("variable", ["TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT"])
def test_a_port_in_use_is_named_with_its_variable(variable: str) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with serve(Ports.free(), **{variable: str(port)}) as server:
            assert server.wait(10) == 2
            assert server.lines == [f"serve: port {port} is in use; set {variable} to another one"]


@pytest.mark.parametrize(("value", "complaint"), [("abc", "not 'abc'"), ("0", "not '0'"), ("70000", "not '70000'")])
def test_a_port_that_is_none(value: str, complaint: str) -> None:
    with serve(Ports.free(), TRITON_HTTP_PORT=value) as server:
        assert server.wait(10) == 2
        assert server.lines == [f"serve: TRITON_HTTP_PORT must be a port between 1 and 65535, {complaint}"]


def test_models_that_cannot_be_loaded_end_it_with_the_reasons(tmp_path: Path) -> None:
    overrides = {"MODELS_DIR": str(tmp_path), "MODEL_ID": "nowhere", "HF_HUB_OFFLINE": "1", "DTYPE": "float32"}
    with serve(Ports.free(), **overrides) as server:
        assert server.wait(START_TIMEOUT_S) == 1
        said = server.output[server.output.index("serve: tritonserver did not start") :]
        assert f"CheckpointError: {tmp_path}/vae-oid.npz: no such file; set VAE_CHECKPOINT" in said
        assert "ModelNotFound: [model_not_found] nowhere is no folder under" in said
        assert len(said.splitlines()) <= 6
        assert server.lines[-1] == "serve: the server has been ended"


def test_a_wrong_setting_ends_it_with_its_name(tmp_path: Path) -> None:
    with serve(Ports.free(), *repository_of(tmp_path, "paligemma"), MAX_SLOTS="none") as server:
        assert server.wait(START_TIMEOUT_S) == 1
        assert "ConfigError: MAX_SLOTS must be a whole number of at least 1, not 'none'" in server.output
