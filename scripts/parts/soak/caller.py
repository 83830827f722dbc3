"""Sends calls over gRPC and names each outcome."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tritonclient.grpc.aio as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from parts.segment_inputs import segment_inputs
from parts.soak.kinds import CANCELLED, OK, PALIGEMMA, Call

HANG_S: Final = 120.0  # an answer that takes longer counts as none
NO_ANSWER: Final = "no answer"
DIFFERENT: Final = "another answer than alone"
SCORE_TOLERANCE: Final = 1e-4
MASK_TOLERANCE: Final = 1e-4

_CODE: Final = re.compile(r"\[([a-z_]+)\] ")

Answer = dict[str, NDArray[Any]]
AfterEach = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Tally:
    """Outcomes by kind of request.

    Attributes:
        outcomes: number of calls by (kind, outcome).
        wrong: calls with an outcome that is not right, with that outcome.
    """

    outcomes: Counter[tuple[str, str]]
    wrong: list[tuple[Call, str]]

    @property
    def count(self) -> int:
        """Number of calls that have an outcome."""
        return self.outcomes.total()


class Caller:
    """A gRPC connection, and the answers to calls that were sent alone."""

    def __init__(self, client: grpcclient.InferenceServerClient) -> None:
        self._client = client
        self._alone: dict[tuple[bytes, str], Answer] = {}

    async def ask_alone(self, calls: Iterable[Call]) -> None:
        """Sends calls one at a time and keeps their answers for comparison."""
        for call in calls:
            self._alone[call.image, call.prompt] = await self._infer(call)

    async def ask_all(self, calls: Iterable[Call], *, clients: int, after_each: AfterEach | None = None) -> Tally:
        """Sends calls from `clients` clients at once; each sends its next call when it has its answer."""
        remaining = iter(calls)
        tally = Tally(Counter(), [])

        async def work() -> None:
            for call in remaining:
                outcome = await self.outcome_of(call)
                tally.outcomes[call.kind, outcome] += 1
                if outcome not in call.right:
                    tally.wrong.append((call, outcome))
                if after_each is not None:
                    await after_each(tally.count)

        await asyncio.gather(*(work() for _ in range(clients)))
        return tally

    async def outcome_of(self, call: Call) -> str:
        """Returns `ok`, an error code, `cancelled`, or a description of a wrong outcome."""
        task = asyncio.create_task(self._infer(call))
        if call.cancel_after_s is not None:
            await asyncio.wait([task], timeout=call.cancel_after_s)
            task.cancel()
        try:
            answer = await task
        except asyncio.CancelledError:
            return CANCELLED
        except InferenceServerException as error:
            return _name(error)
        expected = self._alone.get((call.image, call.prompt))
        if call.model != PALIGEMMA and expected is not None and not _agree(answer, expected):
            return DIFFERENT
        return OK

    async def _infer(self, call: Call) -> Answer:
        inputs = segment_inputs(call.image, call.prompt)
        result = await self._client.infer(call.model, inputs, timeout=call.timeout_us or None, client_timeout=HANG_S)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def _name(error: InferenceServerException) -> str:
    coded = _CODE.search(error.message() or "")
    if coded is not None:
        return coded[1]
    status = str(error.status())
    return NO_ANSWER if status == "StatusCode.DEADLINE_EXCEEDED" else f"{status}: {error.message()}"


def _agree(answer: Answer, expected: Answer) -> bool:
    """Whether two answers are the same: bit by bit, except for rounding from another order of summation."""
    tolerances = {"scores": SCORE_TOLERANCE, "masks": MASK_TOLERANCE}
    return all(
        np.allclose(answer[name], array, rtol=0, atol=tolerances[name])
        if name in tolerances and answer[name].shape == array.shape
        else np.array_equal(answer[name], array)
        for name, array in expected.items()
    )
