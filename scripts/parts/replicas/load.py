"""Clients that go on asking a gateway in a thread of their own while something else is done."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import httpx2

from parts.benchmark.workload import Job

ANSWER_TIMEOUT_S: Final = 90.0
NO_ANSWER: Final = "no answer"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        said: `200`, or the status and the code of an error.
        latency_s: until the whole answer was there.
    """

    said: str
    latency_s: float


class Load:
    """So many clients at once while the context lasts, each with one request at a time."""

    def __init__(self, url: str, jobs: Sequence[Job], *, clients: int) -> None:
        self._url, self._jobs, self._clients = url, jobs, clients
        self._stopping = threading.Event()
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def said(self) -> Counter[str]:
        """Outcomes and how often each came."""
        return Counter(outcome.said for outcome in self.outcomes)

    @property
    def slowest_s(self) -> float:
        """The longest latency."""
        return max((outcome.latency_s for outcome in self.outcomes), default=0.0)

    async def _run(self) -> None:
        limits = httpx2.Limits(max_connections=self._clients, max_keepalive_connections=self._clients)
        async with httpx2.AsyncClient(limits=limits, timeout=ANSWER_TIMEOUT_S, trust_env=False) as client:
            await asyncio.gather(*(self._work(client, number) for number in range(self._clients)))

    async def _work(self, client: httpx2.AsyncClient, number: int) -> None:
        while not self._stopping.is_set():
            job = self._jobs[number % len(self._jobs)]
            number += self._clients
            started = time.perf_counter()
            said = await self._ask(client, job)
            self.outcomes.append(Outcome(said, time.perf_counter() - started))

    async def _ask(self, client: httpx2.AsyncClient, job: Job) -> str:
        files = {"image_file": ("image.jpg", job.image, "image/jpeg")}
        try:
            response = await client.post(f"{self._url}/segment", data={"prompt": job.prompt}, files=files)
        except httpx2.HTTPError as error:
            return f"{NO_ANSWER} ({type(error).__name__})"
        if response.status_code == httpx2.codes.OK:
            return "200"
        return f"{response.status_code} {response.json()['code']}"
