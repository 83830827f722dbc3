"""The parts of the pool of replicas that compute: addresses, the choice of a replica, the retry budget, traits."""

import random
from collections import Counter

import pytest
from pydantic import ValidationError
from tritonclient.utils import InferenceServerException

from gateway.settings import Settings
from gateway.triton.client import ReplicaFault, _api_error
from gateway.triton.replicas.addresses import ServiceName, read_targets
from gateway.triton.replicas.balancing import choose
from gateway.triton.replicas.retry_budget import FLOOR, SHARE, WINDOW_S, RetryBudget
from gateway.triton.wire import SegmentRequest, serialize_request

IDLE = {"a:1": 0, "b:1": 0, "c:1": 0}


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("localhost:8011", ("localhost:8011",)),
        ("a:1, b:2,,a:1", ("a:1", "b:2")),
        ("[::1]:8001,127.0.0.1:65535", ("[::1]:8001", "127.0.0.1:65535")),
        ("unix:///run/triton.sock", ("unix:///run/triton.sock",)),
        ("dns:///triton:8001", ServiceName("triton", 8001)),
        ("dns:///triton.models.svc.cluster.local:8001", ServiceName("triton.models.svc.cluster.local", 8001)),
    ],
)
def test_targets(text: str, targets: object) -> None:
    assert read_targets(text) == targets


@pytest.mark.parametrize("text", ["", " , ", "dns:///triton", "dns:///triton:x", "dns:///:1", "dns:///a:1,b:2"])
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(ValidationError, match="triton_grpc_url"):
        Settings(triton_grpc_url=text)


@pytest.mark.parametrize(
    "address",
    [
        "a",
        "a:",
        "a:0",
        "a:99999",
        "a:8001x",
        ":8001",
        "::1:8001",
        "http://a:8001",
        "dns://a:8001",
        "dns:a:8001",
        "a b:1",
    ],
)
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ValidationError, match=f"'{address}', which is no host:port; give"):
        Settings(triton_grpc_url=f"b:1,{address}")


def test_a_picture_has_its_own_replica_and_pictures_are_spread() -> None:
    pictures = [random.Random(seed).randbytes(16) for seed in range(3000)]
    own = {picture: choose(IDLE, picture) for picture in pictures}
    assert all(choose(dict(reversed(IDLE.items())), picture) == address for picture, address in own.items())
    assert all(900 <= count <= 1100 for count in Counter(own.values()).values())


def test_a_replica_that_goes_moves_its_own_pictures_only() -> None:
    left = {address: 0 for address in IDLE if address != "b:1"}
    for seed in range(300):
        picture = random.Random(seed).randbytes(16)
        if choose(IDLE, picture) != "b:1":
            assert choose(left, picture) == choose(IDLE, picture)


def test_the_least_loaded_one_is_asked_where_a_pictures_own_has_more_than_its_share() -> None:
    picture = b"picture"
    own = choose(IDLE, picture)
    first, second = (address for address in IDLE if address != own)
    assert choose({own: 10, first: 10, second: 10}, picture) == own
    assert choose({own: 12, first: 10, second: 10}, picture) != own
    assert choose({own: 12, first: 10, second: 9}, picture) == second


@pytest.mark.parametrize("pictures", [1, 1000])
def test_loads_stay_even_whatever_is_asked(pictures: int) -> None:
    """64 clients; replicas answer in turn. A single picture gives its own replica 15 % more at most."""
    chance = random.Random(0)
    loads, picked = dict(IDLE), Counter[str]()
    running: list[str] = []
    for number in range(5000):
        if len(running) == 64:
            loads[running.pop(chance.randrange(64))] -= 1
        address = choose(loads, str(number % pictures).encode())
        running.append(address)
        loads[address] += 1
        picked[address] += 1
    mean = picked.total() / len(IDLE)
    assert all(abs(count - mean) <= 0.2 * mean for count in picked.values()), picked


def test_retries_are_limited_to_a_share_of_the_requests_and_a_few() -> None:
    now_s = 0.0
    budget = RetryBudget(lambda: now_s)
    assert [budget.take() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    for _ in range(100):
        budget.count_request()
    allowed = int(SHARE * 100)
    assert [budget.take() for _ in range(allowed + 1)] == [True] * allowed + [False]
    now_s = WINDOW_S
    assert [budget.take() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]


def traits_of(image: bytes, *, model_id: str | None = None, prompt: str = "segment model_id") -> tuple[bytes, bool]:
    asked = SegmentRequest(
        image=image, prompt=prompt, model_id=model_id, max_new_tokens=None, timeout_s=1.0, request_id="any"
    )
    request = serialize_request(asked)
    return request.picture, request.names_model


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000, 3_000_000])
def test_a_requests_picture_is_its_image_alone(size: int) -> None:
    image = random.Random(size).randbytes(size)
    assert traits_of(image) == traits_of(image, prompt="segment something that is much longer")
    assert traits_of(image, model_id="a/b") == (traits_of(image)[0], True)
    assert not traits_of(image)[1]
    assert traits_of(image)[0] != traits_of(image + b"x")[0]
    if size:
        assert traits_of(image)[0] != traits_of(image[:-1] + bytes([image[-1] ^ 1]))[0]


@pytest.mark.parametrize(
    ("status", "message", "code", "is_replicas"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", "unavailable", True),
        ("UNAVAILABLE", "in ensemble 'segment', [unavailable] the server is stopping", "unavailable", True),
        ("INTERNAL", "Stub process 'paligemma_0_0' is not healthy.", "internal", True),
        ("INTERNAL", "[internal] the engine failed", "internal", False),
        ("UNAVAILABLE", "[overloaded] 272 requests are in hand", "overloaded", False),
        ("UNAVAILABLE", "[loading] the model is being loaded", "loading", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "deadline", False),
    ],
)
def test_whose_fault_an_error_is(status: str, message: str, code: str, is_replicas: bool) -> None:
    error = _api_error(InferenceServerException(message, f"StatusCode.{status}"))
    assert (error.code, isinstance(error, ReplicaFault)) == (code, is_replicas)
