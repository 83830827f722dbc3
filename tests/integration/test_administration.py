"""What would let a caller change the server is closed, on both protocols; what tells of it is open."""

import urllib.error
import urllib.request
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

CLOSED = [
    ("POST", "v2/repository/index"),
    ("POST", "v2/repository/models/segment/unload"),
    ("POST", "v2/repository/models/segment/load"),
    ("GET", "v2/systemsharedmemory/status"),
    ("POST", "v2/systemsharedmemory/region/stolen/register"),
    ("GET", "v2/cudasharedmemory/status"),
    ("POST", "v2/logging"),
    ("POST", "v2/trace/setting"),
]
OPEN = ["v2/health/ready", "v2/models/segment", "v2/models/segment/config", "v2/models/segment/stats"]


def status(stack: Any, method: str, path: str) -> int:
    url = f"http://127.0.0.1:{stack.ports.http}/{path}"
    request = urllib.request.Request(url, data=b"{}" if method == "POST" else None, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_http_is_closed(stack: Any, method: str, path: str) -> None:
    assert status(stack, method, path) == 403


@pytest.mark.parametrize("path", OPEN)
def test_what_tools_ask_for_is_open(stack: Any, path: str) -> None:
    assert status(stack, "GET", path) == 200


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_model_repository_index(),
        lambda client: client.unload_model("segment"),
        lambda client: client.register_system_shared_memory("stolen", "/triton", 64),
        lambda client: client.update_log_settings({"log_verbose_level": 9}),
        lambda client: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
    ],
    ids=["index", "unload", "shared memory", "logging", "trace"],
)
def test_grpc_is_closed(stack: Any, call: Any) -> None:
    with pytest.raises(InferenceServerException, match="This protocol is restricted"):
        call(stack.grpc)
