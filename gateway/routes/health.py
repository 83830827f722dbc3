"""Probes, and the root."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse

from gateway.middleware import DEMO_PATH
from gateway.schemas import Health, Version, Welcome
from gateway.services import services_of

router = APIRouter()


@router.get("/", summary="A greeting", response_model=Welcome)
async def root(request: Request) -> Welcome | RedirectResponse:
    """Says that this is the right place. A browser, which asks for HTML, is sent to the page that shows the service."""
    asks_for_html = "text/html" in request.headers.get("accept", "")
    if asks_for_html and services_of(request).settings.demo == "on":
        return RedirectResponse(DEMO_PATH.removeprefix("/"))  # relative, for proxies that serve this under a prefix
    return Welcome(message="Welcome to the PaliGemma Segmentation API!")


@router.get("/healthz", summary="Is the gateway alive?")
async def healthz() -> Health:
    """Does not ask Triton: a gateway must not be restarted because of it."""
    return Health(status="ok")


@router.get("/version", summary="Which versions serve")
async def version(request: Request) -> Version:
    """The gateway's version and Triton's."""
    return await services_of(request).version.get()


@router.get("/readyz", summary="Can requests be served?", response_model=Health, responses={503: {"model": Health}})
async def readyz(request: Request) -> JSONResponse:
    """Asks Triton for all four models, at most once a second."""
    ready = await services_of(request).readiness.get()
    status = Health(status="ready" if ready else "not ready")
    return JSONResponse(status.model_dump(), status_code=200 if ready else 503)
