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

Ask = Callable[[Job], Awaitable[None]]


def load_triton(grpc_url: str, jobs: Sequence[Job], *, clients: int) -> list[float]:
    """Sends each job to `segment` over gRPC; returns the latencies in seconds."""

    async def run() -> list[float]:
        async with grpcclient.InferenceServerClient(grpc_url, channel_args=CHANNEL_OPTIONS) as client:

            async def ask(job: Job) -> None:
                inputs = segment_inputs(job.image, job.prompt, job.max_new_tokens)
                await client.infer("segment", inputs, client_timeout=ANSWER_TIMEOUT_S)

            return await _closed_loop(ask, jobs, clients)

    return asyncio.run(run())


def load_gateway(url: str, jobs: Sequence[Job], *, clients: int) -> list[float]:
    """Sends each job to `POST /segment`; returns the latencies in seconds."""

    async def run() -> list[float]:
        limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx2.AsyncClient(limits=limits, timeout=ANSWER_TIMEOUT_S, trust_env=False) as client:

            async def ask(job: Job) -> None:
                files = {"image_file": ("image.jpg", job.image, "image/jpeg")}
                data = {"prompt": job.prompt, "max_new_tokens": str(job.max_new_tokens)}
                request = client.build_request("POST", f"{url}/segment", data=data, files=files)
                request.read()  # the body as a whole: httpx2 would send each field on its own
                (await client.send(request)).raise_for_status()

            return await _closed_loop(ask, jobs, clients)

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
