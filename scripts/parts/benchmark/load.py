"""Closed-loop clients: a fixed number at once, each sends its next request when it has its answer.

They share the processor with the server, so both kinds have to cost about the same: aiohttp takes half a millisecond
for a request, as tritonclient's gRPC does; httpx2 takes more than twice as long.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aiohttp
import tritonclient.grpc.aio as grpcclient

from parts.benchmark.workload import Job
from parts.segment_inputs import CHANNEL_OPTIONS, segment_inputs

ANSWER_TIMEOUT_S: Final = 300.0

LAST_EVENT: Final = b"\n\nevent: done\n"

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
        timeout, connector = aiohttp.ClientTimeout(ANSWER_TIMEOUT_S), aiohttp.TCPConnector(limit=2 * clients)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

            async def ask(job: Job, path: str = "/segment") -> bytes:
                form = _form(job)
                body = await form.as_bytes()  # as a whole: aiohttp would send each field on its own
                async with session.post(f"{url}{path}", data=body, headers=form.headers) as response:
                    response.raise_for_status()
                    return await response.read()

            async def ask_for_events(job: Job) -> None:
                events = await ask(job, "/segment/stream")
                if LAST_EVENT not in events:
                    raise RuntimeError(f"a stream ended with {events[-200:]!r}")

            plain, streams = await asyncio.gather(
                _closed_loop(ask, jobs, clients), _closed_loop(ask_for_events, streamed, clients)
            )
            return plain + streams

    return asyncio.run(run())


def _form(job: Job) -> aiohttp.MultipartWriter:
    form = aiohttp.MultipartWriter("form-data")
    for name, value in (("prompt", job.prompt), ("max_new_tokens", str(job.max_new_tokens))):
        form.append(value).set_content_disposition("form-data", name=name)
    image = form.append(job.image, {"Content-Type": "image/jpeg"})
    image.set_content_disposition("form-data", name="image_file", filename="image.jpg")
    return form


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
