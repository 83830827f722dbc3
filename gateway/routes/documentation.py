"""GET /docs and /redoc, and what they load: everything comes from here, nothing from another host."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from gateway.middleware import STATIC_PATH

PAGES: Final = Path(__file__).parent.parent / "static"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> FileResponse:
    """Swagger UI: the API, to read and to try."""
    return FileResponse(PAGES / "docs.html")


@router.get("/redoc")
async def redoc() -> FileResponse:
    """ReDoc: the API, to read."""
    return FileResponse(PAGES / "redoc.html")


def add_documentation(app: FastAPI) -> None:
    """Adds the pages and their files: our own, and Swagger UI and ReDoc as the package fastapi-offline has them."""
    app.include_router(router)
    app.mount(STATIC_PATH, StaticFiles(directory=PAGES, packages=[("fastapi_offline", "static")]))
