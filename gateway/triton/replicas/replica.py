"""One replica: whether requests are sent to it, and what it has in hand."""

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
    """What a replica is asked through."""

    async def segment(self, request: SerializedRequest, *, timeout_s: float) -> Segmentation:
        """The answer to a serialised request; raises ApiError, and ReplicaFault where another may answer."""

    async def health(self) -> Health:
        """Whether its models are ready; takes a few seconds at most."""

    async def version(self) -> Version:
        """The versions that serve."""

    async def close(self) -> None:
        """Closes the connections."""


class Replica:
    """A Triton, as one gateway sees it.

    Attributes:
        address: host and port.
        client: how it is asked.
        in_rotation: whether requests are sent to it.
        answered_at_s: when it last answered a request, by the clock.
        healthy_at_s: when it last said that it is ready, by the clock.
        failures: requests that it failed on since it last answered one.
    """

    def __init__(
        self, address: str, client: ReplicaClient, metrics: ReplicaMetrics, clock: Callable[[], float]
    ) -> None:
        self.address, self.client = address, client
        self.in_rotation = False
        self.failures = 0
        self.answered_at_s = self.healthy_at_s = float("-inf")
        self._metrics, self._clock = metrics, clock
        self._waiting: dict[asyncio.Future[Segmentation], float] = {}  # unanswered requests: since when they count
        self._streams: Counter[tuple[str, bytes]] = Counter()  # unanswered requests by id and picture
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
        """The answer to a request.

        Args:
            request: if it names a model, it may wait for a load, so its age tells nothing about the replica.
            timeout_s: time limit for the answer.
            is_last: nobody else will be asked, so it is not given up. It may be a request that takes long wherever it
                is asked, so its age tells nothing either.

        Raises:
            ReplicaFault: the replica failed, or was given up meanwhile.
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
        """It has said that it is ready: requests are sent to it again, unless it failed just now."""
        self.healthy_at_s = self._clock()
        if not self.in_rotation and self.healthy_at_s >= self._returns_at_s:
            self._set_rotation(True)
            _log.info("a replica serves", extra={"fields": {"replica": self.address}})

    def eject(self, reason: str) -> bool:
        """No more requests are sent to it for now: for longer each time that it fails without an answer between.

        Returns:
            Whether requests were sent to it until now.
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
        """Whoever waits for an answer, and can ask another replica, gets a ReplicaFault now."""
        self._lost.set_result(None)
        self._lost = asyncio.get_running_loop().create_future()

    def _set_rotation(self, wanted: bool) -> None:
        self.in_rotation = wanted
        self._metrics.in_rotation.labels(self.address).set(wanted)


def _see_failure(call: asyncio.Future[Segmentation]) -> None:
    """Its caller may have left by now: asyncio would log the exception as one that was never retrieved."""
    if not call.cancelled():
        call.exception()
