"""One replica: its outstanding requests, and whether it is in the rotation."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

from gateway.answers.segmentation import Segmentation
from gateway.schemas import Version
from gateway.triton.client import UNAVAILABLE, Health, ReplicaFault
from gateway.triton.wire import SerializedRequest
from gateway.watching.replica_metrics import ReplicaMetrics

FIRST_PENALTY_S: Final = 1.0
MAX_PENALTY_S: Final = 30.0

_log = logging.getLogger(__name__)


class ReplicaClient(Protocol):
    """The client of a replica."""

    async def segment(self, request: SerializedRequest, *, timeout_s: float) -> Segmentation:
        """Returns the answer to a request; raises ApiError, or ReplicaFault if another replica may answer."""

    async def health(self) -> Health:
        """Probes its models; takes at most a few seconds."""

    async def version(self) -> Version:
        """Returns the versions."""

    async def close(self) -> None:
        """Closes the connections."""


class Replica:
    """A Triton and this gateway's requests to it.

    Attributes:
        address: host and port.
        client: its client.
        in_rotation: whether requests are sent to it.
        answered_at_s: the time of its last answer, by the clock.
        healthy_at_s: the time of its last successful probe, by the clock.
        failures: failed requests since its last answer.
    """

    def __init__(
        self, address: str, client: ReplicaClient, metrics: ReplicaMetrics, clock: Callable[[], float]
    ) -> None:
        self.address, self.client = address, client
        self.in_rotation = False
        self.failures = 0
        self.answered_at_s = self.healthy_at_s = float("-inf")
        self._metrics, self._clock = metrics, clock
        self._waiting: dict[
            asyncio.Future[Segmentation], float
        ] = {}  # the outstanding requests, with the time since which they count
        self._streams: Counter[tuple[str, bytes]] = Counter()  # outstanding requests by id and picture
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._penalty_s = FIRST_PENALTY_S
        self._returns_at_s = float("-inf")
        metrics.add(address)

    @property
    def outstanding(self) -> int:
        """Number of unanswered requests."""
        return len(self._waiting)

    def later_request_s(self, later_s: float) -> float:
        """When the first unanswered request was sent that is later than another one, and than the last answer.

        Args:
            later_s: by how much it must be later than the oldest unanswered request.

        Returns:
            By the clock; infinite where there is none. Requests that may wait for a load do not count, nor last ones.
        """
        earliest_s = min(self._waiting.values(), default=float("inf")) + later_s
        later = (at_s for at_s in self._waiting.values() if at_s >= earliest_s and at_s > self.answered_at_s)
        return min(later, default=float("inf"))

    def siblings_of(self, request: SerializedRequest) -> int:
        """Number of unanswered requests with the same id and picture: other targets of the same stream."""
        return self._streams[request.request_id, request.picture]

    async def ask(self, request: SerializedRequest, *, timeout_s: float, is_last: bool = False) -> Segmentation:
        """Sends a request and returns its answer.

        Args:
            request: if it names a model, it may wait for a load, so its age tells nothing about the replica.
            timeout_s: time limit for the answer.
            is_last: no other replica will be tried, so the request is not given up. It may take long on any replica, so
                its age tells nothing either.

        Raises:
            ReplicaFault: the replica failed, or was given up.
            ApiError: there is no answer for another reason.
        """
        call = asyncio.ensure_future(self.client.segment(request, timeout_s=timeout_s))
        call.add_done_callback(_see_failure)
        self._waiting[call] = float("inf") if request.names_model or is_last else self._clock()
        stream = request.request_id, request.picture
        self._streams[stream] += 1
        self._metrics.picked.labels(self.address).inc()
        self._metrics.outstanding.labels(self.address).inc()
        try:
            ends: set[asyncio.Future[Any]] = {call} if is_last else {call, self._lost}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ReplicaFault("unavailable", UNAVAILABLE)
            segmentation = call.result()
        finally:
            call.cancel()
            del self._waiting[call]
            self._streams -= Counter([stream])  # forgets those at 0
            self._metrics.outstanding.labels(self.address).dec()
        self.answered_at_s = self._clock()
        self.failures = 0
        self._penalty_s = FIRST_PENALTY_S
        return segmentation

    def admit(self) -> None:
        """Returns the replica to the rotation after a successful probe, unless it failed recently."""
        self.healthy_at_s = self._clock()
        if not self.in_rotation and self.healthy_at_s >= self._returns_at_s:
            self._set_rotation(True)
            _log.info("a replica serves", extra={"fields": {"replica": self.address}})

    def eject(self, reason: str) -> bool:
        """Takes the replica out of the rotation; for longer after each failure without an answer between.

        Returns:
            Whether it was in the rotation.
        """
        if not self.in_rotation:
            return False
        self._set_rotation(False)
        self.failures = 0
        self._returns_at_s = self._clock() + self._penalty_s
        self._penalty_s = min(2 * self._penalty_s, MAX_PENALTY_S)
        self._metrics.ejected.labels(self.address).inc()
        _log.warning("a replica is left out", extra={"fields": {"replica": self.address, "reason": reason}})
        return True

    def give_up(self) -> None:
        """Fails its outstanding requests with ReplicaFault, except those that cannot be retried."""
        self._lost.set_result(None)
        self._lost = asyncio.get_running_loop().create_future()

    def _set_rotation(self, wanted: bool) -> None:
        self.in_rotation = wanted
        self._metrics.in_rotation.labels(self.address).set(wanted)


def _see_failure(call: asyncio.Future[Segmentation]) -> None:
    """Retrieves the exception of a call whose caller has left; otherwise asyncio would log it."""
    if not call.cancelled():
        call.exception()
