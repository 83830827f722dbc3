"""What the gateway answers when it cannot do what was asked, in one shape and with one table of statuses.

{"status": "error", "detail": "...", "code": "...", "request_id": "..."}
"""

import logging
from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_log = logging.getLogger(__name__)

STATUS_OF_CODE: Final[Mapping[str, int]] = {
    # the engine's codes
    "invalid_image": 400,
    "image_too_large": 413,
    "invalid_prompt": 422,
    "invalid_argument": 422,
    "model_not_allowed": 403,
    "model_gated": 403,
    "model_not_found": 404,
    "model_failed": 502,
    "hub_failed": 502,
    "loading": 503,
    "overloaded": 503,
    "deadline": 504,
    "cancelled": 504,
    "internal": 502,
    # the gateway's own
    "missing_image": 400,
    "too_many_images": 400,
    "invalid_url": 400,
    "invalid_body": 400,
    "invalid_request": 422,
    "request_too_large": 413,
    "unsupported_media_type": 415,
    "unavailable": 503,
}

RETRY_AFTER_S: Final[Mapping[int, int]] = {503: 1}

_CODE_OF_HTTP_STATUS: Final[Mapping[int, str]] = {400: "invalid_body", 404: "not_found", 405: "method_not_allowed"}


class ApiError(Exception):
    """An answer other than success.

    Attributes:
        code: what clients can switch on; decides the HTTP status.
        detail: what the caller can do, in words.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return STATUS_OF_CODE.get(self.code, 502)


def install_error_handlers(app: FastAPI) -> None:
    """Every error, known or not, leaves the application in the one shape."""

    async def api_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error_response(request, status=error.status, code=error.code, detail=error.detail)

    async def validation_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(request, status=422, code="invalid_request", detail=_describe(error))

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _CODE_OF_HTTP_STATUS.get(error.status_code, "invalid_request")
        return error_response(request, status=error.status_code, code=code, detail=str(error.detail))

    async def unknown_error(request: Request, error: Exception) -> JSONResponse:
        _log.error("a request failed", exc_info=error)
        return error_response(request, status=500, code="internal", detail="the request failed; the log has the cause")

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unknown_error)


def error_response(request: Request, *, status: int, code: str, detail: str) -> JSONResponse:
    """An error in the one shape."""
    headers = {"Retry-After": str(RETRY_AFTER_S[status])} if status in RETRY_AFTER_S else None
    body = {"status": "error", "detail": detail, "code": code, "request_id": request.scope.get("request_id", "")}
    return JSONResponse(body, status_code=status, headers=headers)


def _describe(error: RequestValidationError) -> str:
    """The faults by field; never the input, which may be a whole image."""
    faults = [
        f"{'.'.join(str(part) for part in fault['loc'] if part != 'body')}: {fault['msg']}" for fault in error.errors()
    ]
    return "; ".join(faults)
