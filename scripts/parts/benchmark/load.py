"""Closed-loop clients: a fixed number at once, each sends its next request when it has its answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx2
import tritonclient.grpc.aio as grpcclient

from parts.benchmark.workload import Job
from parts.segment_inputs import CHANNEL_OPTIONS, segment_inputs

ANSWER_TIMEOUT_S: Final = 300.0

LAST_EVENT: Final = "\n\nevent: done\n"

Ask = Callable[[Job], Awaitable[object]]


def load_triton(grpc_url: str, jobs: Sequence[Job], *, clients: int) -> list[float]:
    """Sends each job to `segment` over gRPC; returns the latencies in seconds."""

    async def run() -> list[float]:
        async with grpcclient.InferenceServerClient(grpc_url, channel_args=CHANNEL_OPTIONS) as client:

            async def ask(job: Job) -> None:
                inputs = segment_inputs(job.image, job.prompt, job.max_new_tokens)
                await client.infer("segment", inputs, client_timeout=ANSWER_TIMEOUT_S)

            return await _closed_loop(ask, jobs, clients)

    return asyncio.run(run())


def load_gateway(url: str, jobs: Sequence[Job], *, clients: int, streamed: Sequence[Job] = ()) -> list[float]:
    """Sends each job to `POST /segment`; returns the latencies in seconds.

    Args:
        url: the gateway's.
        jobs: for plain requests.
        clients: so many at once.
        streamed: jobs for `POST /segment/stream`, sent at the same time by as many further clients.
    """

    async def run() -> list[float]:
        limits = httpx2.Limits(max_connections=2 * clients, max_keepalive_connections=2 * clients)
        async with httpx2.AsyncClient(limits=limits, timeout=ANSWER_TIMEOUT_S, trust_env=False) as client:

            async def ask(job: Job, path: str = "/segment") -> httpx2.Response:
                files = {"image_file": ("image.jpg", job.image, "image/jpeg")}
                data = {"prompt": job.prompt, "max_new_tokens": str(job.max_new_tokens)}
                request = client.build_request("POST", f"{url}{path}", data=data, files=files)
                request.read()  # the body as a whole: httpx2 would send each field on its own
                return (await client.send(request)).raise_for_status()

            async def ask_for_events(job: Job) -> None:
                response = await ask(job, "/segment/stream")
                if LAST_EVENT not in response.text:
                    raise RuntimeError(f"a stream ended with {response.text[-200:]!r}")

            plain, streams = await asyncio.gather(
                _closed_loop(ask, jobs, clients), _closed_loop(ask_for_events, streamed, clients)
            )
            return plain + streams

    return asyncio.run(run())


async def _closed_loop(ask: Ask, jobs: Sequence[Job], clients: int) -> list[float]:
    remaining = iter(jobs)
    latencies_s: list[float] = []

    async def work() -> None:
        for job in remaining:
            started = time.perf_counter()
            await ask(job)
            latencies_s.append(time.perf_counter() - started)

    await asyncio.gather(*(work() for _ in range(clients)))
    return latencies_s
