"""GET /demo: a page to try the service in a browser, and the files that it loads; everything comes from here."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from gateway.middleware import DEMO_PATH
from gateway.schemas import PageFacts
from gateway.services import services_of

PAGE: Final = Path(__file__).parent.parent / "page"

router = APIRouter(include_in_schema=False)


@router.get(DEMO_PATH)
async def page() -> FileResponse:
    """The page. Its API key, where one is needed, is given by the user within it."""
    return FileResponse(PAGE / "page.html")


@router.get(f"{DEMO_PATH}/")
async def page_with_slash() -> RedirectResponse:
    """The page's files are named relative to its address, which has no slash at its end."""
    return RedirectResponse(f"..{DEMO_PATH}")


@router.get(f"{DEMO_PATH}/facts.json")
async def facts(request: Request) -> PageFacts:
    """What the page shows or hides by the settings."""
    settings = services_of(request).settings
    return PageFacts(
        keys=settings.api_keys_file is not None, docs=settings.docs == "on", url_fetch=settings.url_fetch == "on"
    )


def add_page(app: FastAPI) -> None:
    """Adds the page and its files."""
    app.include_router(router)
    app.mount(DEMO_PATH, StaticFiles(directory=PAGE))
