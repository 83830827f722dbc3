"""GET /models."""

from fastapi import APIRouter, Request

from gateway.schemas import Error, Models
from gateway.services import services_of

router = APIRouter()


@router.get(
    "/models", summary="Which models can be asked for", responses={401: {"model": Error}, 503: {"model": Error}}
)
async def models(request: Request) -> Models:
    """The default, the patterns of what `model_id` may name, and what is in memory or on its way there."""
    return await services_of(request).models.get()
