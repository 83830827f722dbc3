"""Builds the application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway.dialects import sam3, x_anylabeling
from gateway.dialects.label_studio.routes import add_label_studio
from gateway.door.access import KEY_HEADER, KeyFile, require_key, require_key_or_token
from gateway.door.bodies import BodyMiddleware, ByteBudget
from gateway.errors import install_error_handlers
from gateway.middleware import (
    QUIET_ROUTES,
    REQUEST_ID_HEADER,
    FailureMiddleware,
    RecordMiddleware,
    SecurityHeadersMiddleware,
)
from gateway.routes import health, metrics, models, segment, stream
from gateway.routes.documentation import add_documentation
from gateway.routes.page import add_page
from gateway.services import running_services
from gateway.settings import Settings
from gateway.version import VERSION
from gateway.watching.metrics import Metrics

BASE64_GROWTH: Final = 4 / 3
FRAME_BYTES: Final = 1_000_000  # what a body may hold beside its image: fields, and the heads of their parts


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings; connects to Triton when it starts.

    Raises:
        OSError: API_KEYS_FILE cannot be read.
        ValueError: it holds no key.
    """
    collected = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_services(settings, collected) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="PaliGemma Segmentation API",
        version=VERSION,
        description="Text-prompted image segmentation with PaliGemma 2 mix on NVIDIA Triton.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs == "on" else None,
        telemetry=_telemetry(settings),
    )
    app.state.metrics = collected
    app.include_router(health.router)
    app.include_router(metrics.router)
    if settings.docs == "on":
        add_documentation(app)
    if settings.demo == "on":
        add_page(app)
    protection, token_protection = [], []
    if settings.api_keys_file is not None:
        app.state.api_keys = KeyFile(settings.api_keys_file)
        protection, token_protection = [Depends(require_key)], [Depends(require_key_or_token)]
    app.include_router(segment.router, dependencies=protection)
    app.include_router(stream.router, dependencies=protection)
    app.include_router(models.router, dependencies=protection)
    app.include_router(x_anylabeling.router, dependencies=token_protection)
    app.include_router(sam3.router)  # checks the key itself: its clients send it in the body
    add_label_studio(app, settings, collected)
    install_error_handlers(app)
    _add_middleware(app, settings, collected)
    return app


def _telemetry(settings: Settings) -> Any:
    """FastAPI's own tracing; where spans go is up to OpenTelemetry's variables, such as OTEL_EXPORTER_OTLP_ENDPOINT."""
    traced = settings.traces == "on"
    return {
        "tracing": traced,
        "auto_configure": traced,
        "metrics": False,
        "logs": False,
        "exclude": lambda scope: scope["path"] in QUIET_ROUTES,
    }


def _add_middleware(app: FastAPI, settings: Settings, collected: Metrics) -> None:
    """What is added last is outermost."""
    max_body_bytes = int(settings.max_image_bytes * BASE64_GROWTH) + FRAME_BYTES
    budget = ByteBudget(max(settings.max_body_bytes_in_flight, max_body_bytes), collected.body_bytes)
    app.add_middleware(BodyMiddleware, max_body_bytes=max_body_bytes, budget=budget)
    app.add_middleware(FailureMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", KEY_HEADER.model.name, REQUEST_ID_HEADER],
            expose_headers=["Retry-After", REQUEST_ID_HEADER],
        )
    app.add_middleware(RecordMiddleware, metrics=collected)
    app.add_middleware(SecurityHeadersMiddleware)
