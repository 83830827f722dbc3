"""Builds the application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from gateway.errors import install_error_handlers
from gateway.middleware import BodyLimitMiddleware, RequestIdMiddleware
from gateway.readiness import Readiness
from gateway.routes import health, segment
from gateway.settings import Settings
from gateway.triton import TritonSegmenter

VERSION: Final = "0.1.0"
BASE64_GROWTH: Final = 4 / 3
FIELDS_BYTES: Final = 1_000_000  # what a request may hold beside its image


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings; connects to Triton when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        segmenter = TritonSegmenter(settings.triton_grpc_url)
        app.state.segmenter = segmenter
        app.state.readiness = Readiness(segmenter.is_ready)
        yield
        await segmenter.close()

    documented = settings.docs == "on"
    app = FastAPI(
        title="PaliGemma Segmentation API",
        version=VERSION,
        description="Text-prompted image segmentation with PaliGemma 2 mix on NVIDIA Triton.",
        lifespan=lifespan,
        docs_url="/docs" if documented else None,
        redoc_url="/redoc" if documented else None,
        openapi_url="/openapi.json" if documented else None,
    )
    app.state.settings = settings
    app.include_router(health.router)
    app.include_router(segment.router)
    install_error_handlers(app)
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=int(settings.max_image_bytes * BASE64_GROWTH) + FIELDS_BYTES)
    app.add_middleware(RequestIdMiddleware)  # added last, so outermost
    return app
