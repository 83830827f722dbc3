"""GET /metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

router = APIRouter()


@router.get("/metrics", summary="For Prometheus", response_class=Response, include_in_schema=False)
async def metrics(request: Request) -> Response:
    """What the gateway counts and measures."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.metrics.registry), media_type=content_type)
