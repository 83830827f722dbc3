"""What the routes work with; built once for an application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from os import cpu_count
from typing import Final

from anyio import CapacityLimiter
from fastapi import Request

from gateway.door.admission import Admission
from gateway.fetching import Fetcher
from gateway.fetching.addresses import AddressPolicy
from gateway.fetching.network import Resolver
from gateway.schemas import Models, Version
from gateway.settings import Settings
from gateway.triton.cached import Cached
from gateway.triton.model_catalog import ModelCatalog
from gateway.triton.segmenter import Segmenter, metrics_urls, running_segmenter
from gateway.watching.metrics import Metrics

MAX_DECODERS: Final = 2  # bodies decoded at once: each may hold its image twice
MAX_ENCODERS: Final = 4  # answers encoded at once: each may hold a mask as large as a photograph


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running application.

    Attributes:
        decoders: bounds the threads that decode bodies.
        encoders: bounds the threads that encode answers.
        fetcher: None where URLs are not fetched.
    """

    settings: Settings
    segmenter: Segmenter
    readiness: Cached[bool]
    models: Cached[Models]
    version: Cached[Version]
    catalog: ModelCatalog
    admission: Admission
    decoders: CapacityLimiter
    encoders: CapacityLimiter
    fetcher: Fetcher | None


@asynccontextmanager
async def running_services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Everything connected; closed when the context ends."""
    fetcher = Fetcher(
        resolve=Resolver(),
        policy=AddressPolicy(settings.url_fetch_allowed_networks),
        max_image_bytes=settings.max_image_bytes,
        on_blocked=metrics.count_blocked_fetch,
    )
    async with running_segmenter(settings, metrics.replicas) as segmenter:
        catalog = ModelCatalog(settings, partial(metrics_urls, settings, segmenter))
        yield Services(
            settings=settings,
            segmenter=segmenter,
            readiness=Cached(segmenter.is_ready),
            models=Cached(catalog.read),
            version=Cached(segmenter.version),
            catalog=catalog,
            admission=Admission(settings.max_concurrent_requests, metrics.in_flight),
            decoders=CapacityLimiter(MAX_DECODERS),
            encoders=CapacityLimiter(min(MAX_ENCODERS, cpu_count() or 1)),
            fetcher=fetcher if settings.url_fetch == "on" else None,
        )
        await catalog.close()


def services_of(request: Request) -> Services:
    """The services of the application that serves this request."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services
