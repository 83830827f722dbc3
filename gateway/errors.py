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

from gateway.watching.record import record_of

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
    "fetch_failed": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "request_too_large": 413,
    "unsupported_media_type": 415,
    "lookup_failed": 503,
    "client_disconnected": 499,  # nobody receives it; for logs and metrics, as nginx has it
    "unavailable": 503,
}
UNKNOWN_ERROR_STATUS: Final = 500
UNKNOWN_ERROR_DETAIL: Final = "the request failed; the log has the cause"

# Errors whose cause is for the operator to see. The others' is the request, which may hold what logs must not have.
CODES_WITH_CAUSE: Final = frozenset(
    {"fetch_failed", "lookup_failed", "internal", "model_failed", "hub_failed", "unavailable", "deadline", "cancelled"}
)
MAX_CAUSE_LENGTH: Final = 1000
MAX_CAUSES: Final = 5
MAX_SHOWN_FAULTS: Final = 5

HEADERS_OF_STATUS: Final[Mapping[int, Mapping[str, str]]] = {
    408: {"Connection": "close"},  # the rest of the request may never come
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": "1"},
}

_CODE_OF_HTTP_STATUS: Final[Mapping[int, str]] = {
    400: "invalid_body",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
}


class ApiError(Exception):
    """An answer other than success.

    Attributes:
        code: what clients can switch on; decides the HTTP status.
        detail: what the caller can do, in words.
        notes: for the log and not for the caller, by field.
        retry_after_s: when another try is worth while; None for what the status says.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.notes: dict[str, str] = {}
        self.retry_after_s: int | None = None

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return STATUS_OF_CODE.get(self.code, 502)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of its answer."""
        retry = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return {**HEADERS_OF_STATUS.get(self.status, {}), **retry}


def install_error_handlers(app: FastAPI) -> None:
    """Every known error leaves the application in the one shape; FailureMiddleware answers the others."""

    async def api_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        note_error(request, error)
        response = error_response(request, status=error.status, code=error.code, detail=error.detail)
        response.headers.update(error.headers)
        return response

    async def validation_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return await api_error(request, invalid_fields(error))

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _CODE_OF_HTTP_STATUS.get(error.status_code, "invalid_request")
        response = error_response(request, status=error.status_code, code=code, detail=str(error.detail))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)


def invalid_fields(error: RequestValidationError) -> ApiError:
    """What is said of fields that are missing or wrong."""
    return ApiError("invalid_request", _describe(error))


def note_error(request: Request, error: ApiError) -> None:
    """Notes an error in the request's record, with what only the log may say."""
    record = record_of(request.scope)
    record.code = error.code
    record.notes.update(error.notes)
    if (cause := cause_of(error)) is not None:
        record.notes["cause"] = cause


def cause_of(error: ApiError) -> str | None:
    """What the log may say of an error's cause; None if there is nothing."""
    if error.__cause__ is None or error.code not in CODES_WITH_CAUSE:
        return None
    return _describe_cause(error.__cause__)


def error_response(request: Request, *, status: int, code: str, detail: str) -> JSONResponse:
    """An error in the one shape; noted in the request's record."""
    body = _body(request, code, detail)
    return JSONResponse(body, status_code=status, headers=HEADERS_OF_STATUS.get(status))


def unknown_error_response(request: Request, error: Exception) -> JSONResponse:
    """What is said of a failure that nobody foresaw: its request id; the rest is in the log."""
    _log_unknown(request, error)
    return error_response(request, status=UNKNOWN_ERROR_STATUS, code="internal", detail=UNKNOWN_ERROR_DETAIL)


def late_error_body(request: Request, error: Exception) -> dict[str, str]:
    """The body of an error whose answer has, or has begun with, status 200; it counts as what the error stands for."""
    record = record_of(request.scope)
    if isinstance(error, ApiError):
        note_error(request, error)
        record.status = error.status
        return _body(request, error.code, error.detail)
    _log_unknown(request, error)
    record.status = UNKNOWN_ERROR_STATUS
    return _body(request, "internal", UNKNOWN_ERROR_DETAIL)


def _body(request: Request, code: str, detail: str) -> dict[str, str]:
    record = record_of(request.scope)
    record.code = code
    return {"status": "error", "detail": detail, "code": code, "request_id": record.request_id}


def _log_unknown(request: Request, error: Exception) -> None:
    fields = {"request_id": record_of(request.scope).request_id}
    _log.error("a request failed", exc_info=error, extra={"fields": fields})


def _describe_cause(error: BaseException) -> str:
    """An exception and what it was raised from or during, the last one first."""
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < MAX_CAUSES:
        causes.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    return " < ".join(causes)[:MAX_CAUSE_LENGTH]


def _describe(error: RequestValidationError) -> str:
    """The first faults by field; never the input, which may be a whole image."""
    faults = error.errors()
    shown = [
        f"{'.'.join(str(part) for part in fault['loc'] if part != 'body')}: {fault['msg']}"
        for fault in faults[:MAX_SHOWN_FAULTS]
    ]
    hidden = len(faults) - len(shown)
    return "; ".join([*shown, f"and {hidden} more"] if hidden else shown)
