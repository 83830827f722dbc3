"""Pure ASGI middleware: an id and a record for every request, and headers for browsers."""

import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Final

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import unknown_error_response
from gateway.watching.metrics import Metrics
from gateway.watching.record import RECORD, RequestRecord

REQUEST_ID_HEADER: Final = "X-Request-ID"
UNMATCHED: Final = "unmatched"
REDACTED: Final = "REDACTED"  # in spans, instead of a query: some clients put their key there
QUIET_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds by machines
DOCUMENTATION_PATHS: Final = ("/docs", "/redoc")
STATIC_PATH: Final = "/static"  # of the files that those load
DEMO_PATH: Final = "/demo"  # the page to try the service, and the folder of its files

_WELL_FORMED_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_CONTENT_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_EMPTY_STYLE: Final = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"  # ReDoc's, which it fills by script
_PAGE_POLICY: Final = (
    f"{_CONTENT_POLICY}; base-uri 'none'; form-action 'none'; script-src 'self'; style-src 'self' {_EMPTY_STYLE}; "
    "img-src 'self' data:; connect-src 'self'"
)
_DEMO_POLICY: Final = (
    f"{_CONTENT_POLICY}; base-uri 'none'; form-action 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'"
)
_POLICY_OF_PATH: Final[Mapping[str, str]] = {
    **dict.fromkeys(DOCUMENTATION_PATHS, _PAGE_POLICY),
    DEMO_PATH: _DEMO_POLICY,
}

_log = logging.getLogger("gateway.access")


class RecordMiddleware:
    """Gives a request its id and record, and writes the access line and the metrics.

    The id is the client's X-Request-ID where that is well-formed; it is returned with every response.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        record = RequestRecord(offered if _WELL_FORMED_ID.fullmatch(offered) else uuid.uuid4().hex)
        scope[RECORD] = record
        if scope["query_string"]:
            trace.get_current_span().set_attribute("url.query", REDACTED)
        status, response_bytes = 0, 0

        async def watched_send(message: Message) -> None:
            nonlocal status, response_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = record.request_id
            response_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            self._finish(scope, record, status, response_bytes)

    def _finish(self, scope: Scope, record: RequestRecord, status: int, response_bytes: int) -> None:
        seconds = time.perf_counter() - record.started
        status = record.status or status
        route = getattr(scope.get("route"), "path", UNMATCHED)
        self._metrics.count(record, route=route, status=status, seconds=seconds)
        fields = {
            "request_id": record.request_id,
            "client": (scope.get("client") or [""])[0],
            "method": scope["method"],
            "route": route,
            "status": status,
            "code": record.code,
            "duration_ms": round(seconds * 1e3, 2),
            "phases_ms": record.timings_ms,
            **record.sizes,
            **record.notes,
            "response_bytes": response_bytes,
        }
        _log.log(logging.DEBUG if route in QUIET_ROUTES else logging.INFO, "request", extra={"fields": fields})


class FailureMiddleware:
    """Answers what failed unforeseen; inside CORSMiddleware, so that a page may read that answer, too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        begun = False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:
            if begun or scope["type"] != "http":  # all that is left is to break it off
                raise
            await unknown_error_response(Request(scope), error)(scope, receive, send)


class SecurityHeadersMiddleware:
    """Tells browsers to take answers for what they are, and to keep them to themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_SECURITY_HEADERS)
                headers["Content-Security-Policy"] = _POLICY_OF_PATH.get(scope["path"], _CONTENT_POLICY)
                if scope["path"].startswith((f"{STATIC_PATH}/", f"{DEMO_PATH}/")):
                    headers["Cache-Control"] = "no-cache"  # kept, and asked for by its ETag
            await send(message)

        await self._app(scope, receive, send_with_headers)
