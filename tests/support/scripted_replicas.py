"""Replicas that do as they are told, for tests of the pool: no gRPC, and a clock that moves when a test moves it."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from gateway.answers.segmentation import Segmentation
from gateway.errors import ApiError
from gateway.schemas import Version
from gateway.triton.client import Health, ReplicaFault
from gateway.triton.replicas import pool as pools
from gateway.triton.replicas.balancing import choose
from gateway.triton.replicas.pool import ReplicaPool
from gateway.triton.wire import SegmentRequest, SerializedRequest, serialize_request
from gateway.watching.replica_metrics import ReplicaMetrics

UNTIL_S = 10.0
PICTURES = [str(number).encode() for number in range(60)]


@dataclass
class ScriptedReplica:
    """Answers with its address as text; fails, holds its answers or is unwell if it is told so."""

    address: str
    health_said: Health = Health.READY
    failure: ApiError | None = None
    open_gate: asyncio.Event = field(default_factory=asyncio.Event)
    silence_ends: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    probed: int = 0
    cancelled: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self.open_gate.set()

    async def segment(self, request: SerializedRequest, *, timeout_s: float) -> Segmentation:
        self.asked += 1
        try:
            await self.open_gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return Segmentation([], [], self.address, None, (1, 1))  # type: ignore[arg-type]

    async def health(self) -> Health:
        self.probed += 1
        if self.health_said is Health.SILENT:
            await self.silence_ends.wait()
            return Health.SILENT
        return self.health_said

    async def version(self) -> Version:
        return Version(version="1", triton=self.address)

    async def close(self) -> None:
        self.closed = True


def lost() -> ReplicaFault:
    return ReplicaFault("unavailable", "the model server cannot be reached; try again later")


@dataclass
class Fleet:
    pool: ReplicaPool
    replicas: dict[str, ScriptedReplica]
    registry: CollectorRegistry
    now_s: float = 0.0

    async def ask(
        self, picture: bytes = b"a picture", *, model_id: str | None = None, request_id: str | None = None
    ) -> str:
        return (await self.pool.segment(serialized(picture, model_id, request_id), timeout_s=60.0)).text

    def pictures_of(self, address: str) -> list[bytes]:
        """Those that an idle pool would send to this replica."""
        idle = dict.fromkeys(self.pool.addresses, 0)
        return [picture for picture in PICTURES if choose(idle, serialized(picture).picture) == address]

    def metric(self, name: str, replica: str) -> float | None:
        return self.registry.get_sample_value(f"gateway_replica_{name}", {"replica": replica})

    def serving(self) -> set[str]:
        return {address for address in self.pool.addresses if self.metric("in_rotation", address)}

    async def probed_again(self, *addresses: str) -> None:
        """These have been asked how they are since this call, and what they said has been heard."""
        before = {address: self.replicas[address].probed for address in addresses}
        await until(lambda: all(self.replicas[address].probed >= count + 3 for address, count in before.items()))


def serialized(picture: bytes, model_id: str | None = None, request_id: str | None = None) -> SerializedRequest:
    asked = SegmentRequest(
        image=picture,
        prompt="cat",
        model_id=model_id,
        max_new_tokens=None,
        timeout_s=60.0,
        request_id=request_id or uuid.uuid4().hex,
    )
    return serialize_request(asked)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(UNTIL_S):
        while not condition():
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def fleet(monkeypatch: pytest.MonkeyPatch, *addresses: str, **unwell: Health) -> AsyncIterator[Fleet]:
    """A running pool; replicas are probed every few milliseconds."""
    monkeypatch.setattr(pools, "PROBE_PAUSE_S", 0.002)
    registry = CollectorRegistry()
    replicas: dict[str, ScriptedReplica] = {}

    def connect(address: str) -> ScriptedReplica:
        replicas[address] = ScriptedReplica(address, unwell.get(address, Health.READY))
        return replicas[address]

    pool = ReplicaPool(connect, ReplicaMetrics(registry), lambda: started.now_s)
    started = Fleet(pool, replicas, registry)
    async with pool.running(addresses):
        yield started
    assert all(replica.closed for replica in replicas.values())


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))  # type: ignore[arg-type]


HELD = "held"  # id of the requests that a replica does not answer: those that follow with it go to the same replica


async def hold(started: Fleet, address: str, *, model_id: str | None = None) -> asyncio.Task[str]:
    """A request that this replica has and does not answer."""
    replica = started.replicas[address]
    replica.open_gate.clear()
    task = asyncio.create_task(started.ask(started.pictures_of(address)[0], model_id=model_id, request_id=HELD))
    await until(lambda: replica.asked == 1)
    return task
