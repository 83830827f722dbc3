"""A pool of Tritons: sends each request to a replica in the rotation, and retries it once on another if that fails."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Self

from gateway.answers.segmentation import Segmentation
from gateway.door.deadline import Deadline
from gateway.errors import ApiError
from gateway.inputs.prompts import MAX_TARGETS
from gateway.schemas import Version
from gateway.triton.client import UNAVAILABLE, Health, ReplicaFault
from gateway.triton.replicas.balancing import choose
from gateway.triton.replicas.replica import Replica, ReplicaClient
from gateway.triton.replicas.retry_budget import RetryBudget
from gateway.triton.wire import SerializedRequest
from gateway.version import VERSION
from gateway.watching.replica_metrics import ReplicaMetrics

PROBE_PAUSE_S: Final = 1.0  # between two probes of a replica

# A replica is stuck if later requests, too, wait much longer than recent answers took, while other replicas answer. A
# single old request may just be a long one, and the targets of one prompt are sent at almost the same time.
STUCK_AFTER_S: Final = 5.0
STUCK_FACTOR: Final = 3.0
LATER_S: Final = 1.0
ANSWERS_KEPT: Final = 100

RETRIED_CODES: Final = frozenset({"overloaded", "internal"})  # in addition to ReplicaFault
FAILURES_IN_A_ROW: Final = (
    3  # this many `internal` errors without an answer between: the replica is at fault, not the requests
)

_log = logging.getLogger(__name__)


class ReplicaPool:
    """Sends requests to replicas by load and picture; tracks which replicas exist and which are in the rotation."""

    def __init__(
        self,
        connect: Callable[[str], ReplicaClient],
        metrics: ReplicaMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts without replicas.

        Args:
            connect: makes the client of an address.
            metrics: the replicas' metrics.
            clock: a monotonic clock in seconds.
        """
        self._connect, self._metrics, self._clock = connect, metrics, clock
        self._replicas: dict[str, Replica] = {}
        # A watcher for each replica; for a removed one, the task that closes it.
        self._tasks: dict[Replica, asyncio.Task[None]] = {}
        self._budget = RetryBudget(clock)
        self._answer_s: deque[float] = deque(maxlen=ANSWERS_KEPT)
        self.failed = asyncio.Event()  # set when a replica failed: the addresses may have changed

    @asynccontextmanager
    async def running(self, addresses: Iterable[str]) -> AsyncIterator[Self]:
        """Probes all replicas first; closes everything when the context ends."""
        self.update(addresses)
        try:
            await asyncio.gather(*(self._probe(replica) for replica in self._replicas.values()))
            yield self
        finally:
            replicas = list(self._tasks)
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await asyncio.gather(*(replica.client.close() for replica in replicas))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of all replicas, in the rotation or not."""
        return tuple(self._replicas)

    def update(self, addresses: Iterable[str]) -> None:
        """Sets the replicas. A removed one may end its running requests."""
        wanted = dict.fromkeys(addresses)
        for address in [each for each in wanted if each not in self._replicas]:
            replica = Replica(address, self._connect(address), self._metrics, self._clock)
            self._replicas[address] = replica
            self._tasks[replica] = asyncio.create_task(self._watch(replica))
        for address in self._replicas.keys() - wanted.keys():
            replica = self._replicas.pop(address)
            replica.eject("its address has gone")
            self._tasks[replica].cancel()
            self._tasks[replica] = asyncio.create_task(self._say_farewell(replica))

    async def is_ready(self) -> bool:
        """Whether a replica is in the rotation."""
        return any(replica.in_rotation for replica in self._replicas.values())

    async def version(self) -> Version:
        """Returns the gateway's version, and that of a replica in the rotation."""
        replica = next((each for each in self._replicas.values() if each.in_rotation), None)
        return Version(version=VERSION, triton=None) if replica is None else await replica.client.version()

    async def segment(self, request: SerializedRequest, *, timeout_s: float) -> Segmentation:
        """Returns the answer to a request, from a second replica if the first one fails; raises ApiError."""
        deadline = Deadline(timeout_s)
        self._budget.count_request()
        first = self._choose(request)
        if first is None:
            raise ApiError("unavailable", UNAVAILABLE)
        try:
            return await self._ask(first, request, deadline)
        except ApiError as error:
            second = self._choose(request, other_than=first)
            if second is None or not self._may_ask_again(error):
                raise
        return await self._ask(second, request, deadline, is_last=True)

    def _choose(self, request: SerializedRequest, *, other_than: Replica | None = None) -> Replica | None:
        """A stream's targets stay together, so that their picture is prepared once; others go by load and picture."""
        able = [each for each in self._replicas.values() if each.in_rotation and each is not other_than]
        for replica in able:
            if 0 < replica.siblings_of(request) < MAX_TARGETS:
                return replica
        loads = {replica.address: replica.outstanding for replica in able}
        return self._replicas[choose(loads, request.picture)] if loads else None

    def _may_ask_again(self, error: ApiError) -> bool:
        """Whether to retry. Inference is idempotent. Retries after a lost replica add no load: no budget."""
        if isinstance(error, ReplicaFault) and error.code == "unavailable":
            return True
        return error.code in RETRIED_CODES and self._budget.take()

    async def _ask(
        self, replica: Replica, request: SerializedRequest, deadline: Deadline, *, is_last: bool = False
    ) -> Segmentation:
        asked_at_s = self._clock()
        try:
            segmentation = await replica.ask(request, timeout_s=deadline.remaining_s(), is_last=is_last)
        except ApiError as error:
            if isinstance(error, ReplicaFault) or error.code in RETRIED_CODES:
                self._metrics.failed.labels(replica.address).inc()
            if error.code == "internal":
                replica.failures += 1
            is_lost = isinstance(error, ReplicaFault) and error.code == "unavailable"
            if is_lost or self._fails_always(replica):
                self._eject(replica, str(error))
            raise
        if not request.names_model:  # else it may have waited for a load
            self._answer_s.append(self._clock() - asked_at_s)
        return segmentation

    def _eject(self, replica: Replica, reason: str) -> None:
        if replica.eject(reason):
            self.failed.set()

    def _fails_always(self, replica: Replica) -> bool:
        """Whether a replica only fails: without outstanding requests it would be preferred. False for the last one."""
        others = any(each.in_rotation for each in self._replicas.values() if each is not replica)
        return others and replica.failures >= FAILURES_IN_A_ROW

    async def _watch(self, replica: Replica) -> None:
        while True:
            await self._try_to_probe(replica)
            await asyncio.sleep(PROBE_PAUSE_S)

    async def _try_to_probe(self, replica: Replica) -> None:
        try:
            await self._probe(replica)
        except Exception:  # any exception: a replica without a watcher would never return
            _log.exception("a replica could not be probed")

    async def _probe(self, replica: Replica) -> None:
        asked_at_s = self._clock()
        health = await replica.client.health()
        if health is Health.READY and self._is_stuck(replica):
            self._give_up(replica, "its requests wait, and others' are answered")
        elif health is Health.READY:
            if self._replicas.get(replica.address) is replica:  # else its address has gone
                replica.admit()
        elif health is not Health.SILENT:
            self._eject(replica, health.value)
        elif any(other.healthy_at_s > asked_at_s for other in self._replicas.values()):  # so it is not this process
            self._give_up(replica, health.value)

    def _give_up(self, replica: Replica, reason: str) -> None:
        self._eject(replica, reason)
        replica.give_up()

    def _is_stuck(self, replica: Replica) -> bool:
        sent_at_s = replica.later_request_s(LATER_S)
        patience_s = max(STUCK_AFTER_S, STUCK_FACTOR * max(self._answer_s, default=0.0))
        others = (other.answered_at_s for other in self._replicas.values() if other is not replica)
        return self._clock() - sent_at_s > patience_s and any(at_s > sent_at_s for at_s in others)

    async def _say_farewell(self, replica: Replica) -> None:
        while replica.outstanding:
            await self._try_to_probe(replica)
            await asyncio.sleep(PROBE_PAUSE_S)
        del self._tasks[replica]
        if replica.address not in self._replicas:  # else it has come back, as another replica
            self._metrics.forget(replica.address)
        await replica.client.close()
