"""The segmenter: one Triton, or a pool of replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

from gateway.answers.segmentation import Segmentation
from gateway.fetching.network import Resolver
from gateway.schemas import Version
from gateway.settings import Settings
from gateway.triton.client import TritonSegmenter
from gateway.triton.replicas.addresses import ServiceName, host_of
from gateway.triton.replicas.following import follow, look_up
from gateway.triton.replicas.pool import ReplicaPool
from gateway.triton.wire import SerializedRequest
from gateway.watching.replica_metrics import ReplicaMetrics


class Segmenter(Protocol):
    """Sends requests to Triton."""

    async def segment(self, request: SerializedRequest, *, timeout_s: float) -> Segmentation:
        """Returns the answer to a serialised request; raises ApiError if there is none."""

    async def is_ready(self) -> bool:
        """Whether requests can be served."""

    async def version(self) -> Version:
        """Returns the gateway's version, and a server's if one answers."""


@asynccontextmanager
async def running_segmenter(settings: Settings, metrics: ReplicaMetrics) -> AsyncIterator[Segmenter]:
    """Connects to the settings' replicas until the context ends. A single address needs no pool."""
    connect = partial(TritonSegmenter, keepalive_s=settings.triton_keepalive_s, traced=settings.traces == "on")
    targets = settings.triton_targets
    if isinstance(targets, ServiceName):
        resolve = Resolver()
        async with ReplicaPool(connect, metrics).running(await look_up(targets, resolve) or ()) as pool:
            following = asyncio.create_task(follow(targets, resolve, pool.update, pool.failed))
            try:
                yield pool
            finally:
                following.cancel()
    elif len(targets) > 1:
        async with ReplicaPool(connect, metrics).running(targets) as pool:
            yield pool
    else:
        segmenter = connect(targets[0])
        yield segmenter
        await segmenter.close()


def metrics_urls(settings: Settings, segmenter: Segmenter) -> tuple[str, ...]:
    """Returns the metrics URLs: the settings', or those of the present replicas if a name is followed."""
    if not (isinstance(segmenter, ReplicaPool) and isinstance(settings.triton_targets, ServiceName)):
        return settings.triton_metrics_urls
    url = urlsplit(settings.triton_metrics_url)
    port = "" if url.port is None else f":{url.port}"
    return tuple(url._replace(netloc=f"{host_of(address)}{port}").geturl() for address in segmenter.addresses)
