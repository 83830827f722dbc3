"""The supervisor over a stand-in for Triton: what it does in situations that a real one is hard to bring into."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from stack import REPOSITORY, ChildProcess, Ports, environment, free_ports, wait_until

from parts.serve.ports import PortError
from parts.serve.probes import Address, FirstRequestFailed, ask_first_request
from parts.serve.stack import StackFailed, replica_ports, running_stack

START_S = 60.0
FAKE = REPOSITORY / "tests" / "support" / "fake_tritonserver.py"


@pytest.fixture
def fake_path(tmp_path: Path) -> str:
    """A PATH on which the stand-in is called tritonserver."""
    command = tmp_path / "bin" / "tritonserver"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    command.chmod(0o755)
    return f"{command.parent}:{os.environ['PATH']}"


@pytest.fixture
def silent_proxy() -> Iterator[tuple[str, list[socket.socket]]]:
    """An address that takes connections and never says anything, and the connections that it took."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
        listener.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


def supervisor(path: str, *options: str, **overrides: str) -> ChildProcess:
    command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), *options]
    return ChildProcess(command, environment(Ports.free(), {"PATH": path, **overrides}))


def status_of(url: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_proxy_in_the_environment_is_not_asked(fake_path: str, silent_proxy: tuple[str, list[socket.socket]]) -> None:
    """Docker and companies set one; probes of this machine do not go through it."""
    proxy, taken = silent_proxy
    variables = {"http_proxy": proxy, "HTTP_PROXY": proxy, "no_proxy": "", "NO_PROXY": ""}
    with supervisor(fake_path, **variables) as server:
        server.wait_for_line("^serve: ready", START_S)
    assert not taken


@pytest.mark.parametrize("name", ["triton", "gateway"])
def test_an_image_s_health_check_asks_no_proxy(name: str, silent_proxy: tuple[str, list[socket.socket]]) -> None:
    """Docker hands the host's proxy to containers. Healthy is what answers 200, and nothing else."""
    text = (REPOSITORY / f"Dockerfile.{name}").read_text()
    (command,) = re.findall(r"HEALTHCHECK [^[]*CMD (\[.*\])", text)
    proxy, taken = silent_proxy
    environ = {**os.environ, "http_proxy": proxy, "HTTP_PROXY": proxy, "no_proxy": "", "NO_PROXY": ""}

    def check(port: int) -> int:
        there = re.sub(r":800[03]/", f":{port}/", command)
        words = [re.sub(r"^/app/(scripts/)?", f"{REPOSITORY}/scripts/", word) for word in json.loads(there)]
        return subprocess.run([sys.executable, *words[1:]], env=environ, timeout=30, check=False).returncode

    (port,) = free_ports(1)
    assert check(port) != 0
    with ChildProcess([sys.executable, str(FAKE), f"--http-port={port}"], os.environ):
        wait_until(lambda: status_of(f"http://127.0.0.1:{port}/") == 200, START_S, "a server")
        assert check(port) == 0
    assert not taken


def test_a_second_signal_ends_at_once(fake_path: str) -> None:
    with supervisor(fake_path, FAKE_TRITON="hears_nothing") as server:
        server.wait_for_line("^serve: ready", START_S)
        family = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(psutil.TimeoutExpired):  # it waits for the server, which does not end
            psutil.Process(server.process.pid).wait(1.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(5) == 0
        assert not [process for process in family if process.is_running()]


def test_a_log_that_nobody_can_write_does_not_stop_the_server(fake_path: str) -> None:
    """As on a full disk: the server's log is still read, or its pipe would fill up and the server would wait."""
    ports = Ports.free()
    environ = environment(ports, {"PATH": fake_path, "FAKE_TRITON": "verbose"})
    command = [sys.executable, str(REPOSITORY / "scripts" / "serve.py"), "--metrics-port", str(free_ports(1)[0])]
    redirected = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *command]
    with ChildProcess(redirected, environ) as server:
        url = f"http://127.0.0.1:{ports.http}/v2/health/ready"
        wait_until(lambda: status_of(url) == 200 or server.process.poll() is not None, START_S, "ready")
        assert server.process.poll() is None, server.output
        wait_until(lambda: status_of(f"http://127.0.0.1:{command[-1]}/ready") == 200, START_S, "supervisor ready")


def test_heartbeats_need_no_disk(fake_path: str) -> None:
    with supervisor(fake_path) as server:
        said = server.wait_for_line("^heartbeats in", START_S)
        folder = Path(said.removeprefix("heartbeats in "))
        assert folder.parent == Path("/dev/shm")
        server.wait_for_line("^serve: ready", START_S)
        assert server.stop() == 0
        assert not folder.exists()


def test_loads_that_fail_again_and_again_end_it_with_the_cause(fake_path: str) -> None:
    with supervisor(fake_path, "--restart", FAKE_TRITON="dies") as server:
        assert server.wait(START_S) == 1
        assert server.lines[-1] == "serve: the server has been ended"
        assert re.match(r"serve: tritonserver died \(status 3\)", server.output[server.output.rindex("serve: tri") :])


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("never_answers", "serve: the first request was not answered within 2 s"),
        ("refuses", "serve: the first request failed: [internal] something broke"),
    ],
)
def test_a_server_that_cannot_answer_is_never_called_ready(fake_path: str, behaviour: str, said: str) -> None:
    (port,) = free_ports(1)
    options = ("--metrics-port", str(port), "--first-answer-timeout-s", "2", "--restart")
    with supervisor(fake_path, *options, FAKE_TRITON=behaviour) as server:
        server.wait_for_line("^inference 1 of /v2/models/segment/infer", START_S)
        assert status_of(f"http://127.0.0.1:{port}/ready") != 200
        assert server.wait(START_S) == 1
    assert said in server.lines
    assert "serve: ready" not in server.output
    assert "Python" in server.output[server.output.index(said) :]


def test_a_server_that_others_keep_busy_is_ready(fake_path: str) -> None:
    """It refused the first request for as long as others asked, and was ended although it worked."""
    with supervisor(fake_path, "--first-answer-timeout-s", "2", FAKE_TRITON="overloaded") as server:
        server.wait_for_line("^serve: ready", START_S)


def test_a_first_request_that_fails_in_any_way_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw ended its thread, and the supervisor waited for ever."""

    def infer(*_: object) -> None:
        raise ValueError("an answer that cannot be read")

    monkeypatch.setattr("parts.serve.probes._infer", infer)
    failure = ask_first_request(Address("127.0.0.1", 1), 1.0).exception(timeout=10)
    assert isinstance(failure, FirstRequestFailed)
    assert "an answer that cannot be read" in str(failure)


def test_a_server_that_loads_at_first_is_asked_again(fake_path: str) -> None:
    (port,) = free_ports(1)
    with supervisor(fake_path, "--metrics-port", str(port), FAKE_TRITON="loads_at_first") as server:
        server.wait_for_line("^serve: ready", START_S)
        assert "inference 2 of" in server.output
        assert status_of(f"http://127.0.0.1:{port}/ready") == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(START_S) == 0


def test_a_second_ctrl_c_ends_the_demo_at_once(fake_path: str) -> None:
    """The first one waits for what is running, here a server that does not end."""
    command = [sys.executable, "-m", "parts.demo"]
    ports = Ports.free()
    overrides = {"PATH": fake_path, "FAKE_TRITON": "hears_nothing", "PYTHONPATH": str(REPOSITORY / "scripts")}
    environ = environment(ports, overrides)
    with ChildProcess(command, environ) as run:
        root = psutil.Process(run.process.pid)

        def names() -> list[str]:
            with contextlib.suppress(psutil.NoSuchProcess):
                return [" ".join(child.cmdline()) for child in root.children(recursive=True)]
            return []

        wait_until(lambda: status_of(f"http://127.0.0.1:{ports.http}/v2/health/ready") == 200, START_S, "a server")
        family = root.children(recursive=True)
        run.process.send_signal(signal.SIGINT)
        wait_until(lambda: not any("-m gateway" in name for name in names()), START_S, "the gateway's end")
        assert run.process.poll() is None
        run.process.send_signal(signal.SIGINT)
        assert run.wait(10) == 0
        assert run.lines[-1] == "stopped"
        wait_until(lambda: not [process for process in family if process.is_running()], 10, "nothing left behind")


def test_engines_are_told_before_the_server_is_stopped(fake_path: str) -> None:
    """So that a server under load takes no more, and comes to its end."""
    with supervisor(fake_path) as server:
        folder = Path(server.wait_for_line("^heartbeats in ", START_S).removeprefix("heartbeats in "))
        server.wait_for_line("^serve: ready", START_S)
        (folder / "engine-0").write_text(f"1 {time.monotonic()}")
        server.process.send_signal(signal.SIGTERM)
        wait_until((folder / "stopping").exists, START_S, "told to stop")
        assert server.process.poll() is None
        (folder / "engine-0").write_text(f"0 {time.monotonic()}")
        assert server.wait(START_S) == 0


def test_equal_ports_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Triton and of the gateway, too, which listen in different processes."""
    ports = Ports.free()
    environ = environment(ports, {"TRITON_GRPC_PORT": str(ports.gateway)})
    with (
        pytest.raises(PortError, match=rf"port {ports.gateway} is given twice: TRITON_GRPC_PORT and GATEWAY_PORT"),
        running_stack(environ, lambda *_: None),
    ):
        pass


def test_ports_of_replicas_are_counted_up() -> None:
    environ = {"REPLICAS": "3", "TRITON_GRPC_PORT": "9001"}
    found = [[port.number for port in ports] for ports in replica_ports(environ)]
    assert found == [[8010, 9001, 8012], [8020, 9011, 8022], [8030, 9021, 8032]]
    assert len(replica_ports({})) == len(replica_ports({"REPLICAS": ""})) == 1


@pytest.mark.parametrize("replicas", ["0", "17", "-1", "two", "2.5"])
def test_replicas_that_are_no_number(replicas: str) -> None:
    with pytest.raises(StackFailed, match="REPLICAS must be a whole number from 1 to 16"):
        replica_ports({"REPLICAS": replicas})


def test_a_replicas_port_that_is_too_high() -> None:
    with pytest.raises(PortError, match="TRITON_HTTP_PORT must be a port between 1 and 65535, not '65540'"):
        replica_ports({"REPLICAS": "2", "TRITON_HTTP_PORT": "65530"})


RUNS_CHATTY = """
import os, pathlib, sys, time
from parts.serve import child
child.RUN_DIR = pathlib.Path(sys.argv[1])
chatty = [sys.executable, "-c", "print('x' * 99, flush=True); print('y' * 1_000_000)"]
with child.Process("chatty", chatty, os.environ) as process:
    while not process.has_ended:
        time.sleep(0.05)
"""


def test_a_log_file_that_cannot_be_written_does_not_stop_a_child(tmp_path: Path) -> None:
    """In a process of its own: this one may have threads of other tests, and what is started there is forked."""
    (tmp_path / "chatty.log").symlink_to("/dev/full")
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY / "scripts")}
    command = [sys.executable, "-c", RUNS_CHATTY, str(tmp_path)]
    done = subprocess.run(command, env=environ, timeout=START_S, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
