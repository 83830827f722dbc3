"""Two real Tritons behind one gateway, started as their user starts them; one is killed while clients ask."""

import re
import signal

import psutil
from front import metric
from pressure import under_load
from raw_http import segment_request
from stack import REPOSITORY, ChildProcess, Ports, environment, wait_until

from parts.serve.stack import PORT_STRIDE
from parts.soak.kinds import good_calls

CLIENTS = 16
BACK_S = 60


def replica_metric(ports: Ports, name: str, grpc_port: int) -> float:
    return metric(ports, f'gateway_replica_{name}{{replica="127.0.0.1:{grpc_port}"}}')


def server_at(run: ChildProcess, grpc_port: int) -> psutil.Process:
    children = psutil.Process(run.process.pid).children(recursive=True)
    (found,) = [
        child for child in children if child.name() == "tritonserver" and f"{grpc_port}" in str(child.cmdline())
    ]
    return found


def test_a_replica_that_is_killed_costs_no_answer_and_comes_back() -> None:
    ports = Ports.free()
    first, second = ports.grpc, ports.grpc + PORT_STRIDE
    calls = [call for call in good_calls() if call.kind == "one target"]
    requests = [segment_request(call.image, call.prompt) for call in calls]

    def kill() -> None:
        server_at(run, second).kill()
        wait_until(lambda: replica_metric(ports, "in_rotation", second) == 0, 10, "left out")
        run.wait_for_line("^triton-2: serve: tritonserver died .* starting the server again", 20)
        wait_until(lambda: replica_metric(ports, "in_rotation", second) == 1, BACK_S, "serves again")

    demo = [str(REPOSITORY / "scripts" / "demo.sh")]
    with ChildProcess(demo, environment(ports, {"REPLICAS": "2"})) as run:
        run.wait_for_line("^serving until Ctrl-C", 120)
        assert re.search(rf"^triton-2 +ready in .*grpc {second},", run.output, re.MULTILINE)
        replies = under_load(
            ports.gateway,
            kill,
            clients=CLIENTS,
            make=lambda client, number: requests[(client + number) % len(requests)],
        )
        assert {reply.status for reply in replies} == {200}
        assert len(replies) > 2 * CLIENTS
        before = replica_metric(ports, "picked_total", second)
        for request in requests:
            under_load(ports.gateway, lambda: None, clients=2, make=lambda _client, _number, sent=request: sent)
        assert replica_metric(ports, "picked_total", second) > before
        assert replica_metric(ports, "picked_total", first) > 0
        family = psutil.Process(run.process.pid).children(recursive=True)
        assert run.stop(signal.SIGINT) == 0
        assert not [process for process in family if process.is_running()]
