"""The gateway's REST interface: builds requests and reads answers. rest_transports.py sends them."""

import functools
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx2

from paligemma_client.errors import (
    UNKNOWN_CODE,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    FetchFailed,
    InvalidPicture,
    ServerError,
    kind_of_status,
)
from paligemma_client.models import Models
from paligemma_client.objects import FoundObject, Result
from paligemma_client.questions import Question
from paligemma_client.targets import read_targets

SEGMENT_PATH: Final = "/segment"
STREAM_PATH: Final = "/segment/stream"
MODELS_PATH: Final = "/models"
CONNECT_TIMEOUT_S: Final = 5.0  # short, so that a server that drops packets is tried again within timeout_s
MAX_DETAIL_CHARS: Final = 300  # of an answer that does not come from the gateway, such as a proxy's
LIMITS: Final = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
_OK: Final = 200


def normal_address(server: str) -> str:
    """Returns a server's address without a trailing slash; raises ValueError if it is not an http or https URL."""
    url = httpx2.URL(server)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"the server's address must be http://host:port or https://host:port, and is {server!r}")
    return server.rstrip("/")


@functools.cache
def tls() -> ssl.SSLContext:
    """The trusted certificates, for all clients of a program: reading them takes 20 to 60 ms."""
    return httpx2.create_ssl_context()


def timeouts(timeout_s: float) -> httpx2.Timeout:
    """The timeouts of one attempt."""
    return httpx2.Timeout(max(timeout_s, 0.001), connect=max(0.001, min(timeout_s, CONNECT_TIMEOUT_S)), pool=None)


class RestRequests:
    """Builds the requests. Only requests to the gateway have the key; pictures are fetched without it."""

    def __init__(self, server: str, api_key: str | None, web: httpx2.Client | httpx2.AsyncClient) -> None:
        self.server = normal_address(server)
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._web = web

    def segment(self, question: Question, timeout_s: float, *, path: str = SEGMENT_PATH) -> httpx2.Request:
        """Builds a request for masks as run lengths, in pixels of the given picture.

        The body is encoded here, so that it is sent in one piece: httpx2 would send each field separately.
        """
        asking = question.asking
        fields = {
            "prompt": question.prompt,
            "mask_format": "rle",
            "coordinate_space": "original",
            "return_image": "false",
            "min_score": str(asking.min_score),
            "model_id": asking.model_id,
            "max_new_tokens": None if asking.max_new_tokens is None else str(asking.max_new_tokens),
        }
        request = self._web.build_request(
            "POST",
            self.server + path,
            headers=self._headers,
            data={name: value for name, value in fields.items() if value is not None},
            files={"image_file": ("picture", question.picture)},
            timeout=timeouts(timeout_s),
        )
        request.read()
        return request

    def models(self, timeout_s: float) -> httpx2.Request:
        """Builds a request for the list of models."""
        return self._web.build_request(
            "GET", self.server + MODELS_PATH, headers=self._headers, timeout=timeouts(timeout_s)
        )


def read_object(entry: Mapping[str, Any], targets: list[str]) -> FoundObject:
    """Reads one entry of `masks`; `targets` are those of the prompt, empty if the server does not send them."""
    target = entry.get("target")  # an index; older servers do not send it
    x_min, y_min, x_max, y_max = entry["coordinates"]
    return FoundObject(
        label=entry["label"],
        score=entry["score"],
        box_xyxy=(x_min, y_min, x_max, y_max),
        mask_score=entry["mask_score"],
        run_lengths=entry["mask"],
        target=targets[target] if isinstance(target, int) and target < len(targets) else None,
    )


def read_result(response: httpx2.Response, question: Question) -> Result:
    """Reads the answer to /segment; raises ServerError if it is an error."""
    check(response)
    body = _json(response)
    targets = read_targets(body.get("targets", []))
    names = [target.name for target in targets]
    return Result(
        objects=[read_object(entry, names) for entry in body["masks"]],
        width=body["image_size"]["width"],
        height=body["image_size"]["height"],
        text=body["text"],
        targets=targets,
        model_id=body["model_id"],
        request_id=body["request_id"],
        timings_ms=body["timings_ms"],
        picture=question.picture,
    )


def read_models(response: httpx2.Response) -> Models:
    """Reads the answer to /models."""
    check(response)
    body = _json(response)
    fields = {name: body[name] for name in ("default", "allowed", "loaded", "loading")}
    return Models(**fields, dtypes=body.get("dtypes", {}))


def check(response: httpx2.Response) -> None:
    """Raises ServerError if a received answer is an error."""
    if response.status_code != _OK:
        raise error_of(response)


def error_of(response: httpx2.Response) -> ServerError:
    """Reads the gateway's error, or an error page of a proxy."""
    try:
        body = json.loads(response.content)
        code, detail, request_id = body["code"], body["detail"], body.get("request_id")
    except (ValueError, KeyError, TypeError):
        code, detail, request_id = (
            UNKNOWN_CODE,
            f"HTTP {response.status_code}: {response.text[:MAX_DETAIL_CHARS]}",
            None,
        )
    return kind_of_status(response.status_code)(
        code,
        detail,
        status=response.status_code,
        request_id=request_id,
        retry_after_s=_seconds(response.headers.get("Retry-After")),
    )


def check_fetched(response: httpx2.Response, address: str) -> bytes:
    """Returns a picture from the web. A temporary error raises FetchFailed, so that the fetch is repeated."""
    if response.status_code == _OK:
        return response.content
    message = f"{address} answers with HTTP {response.status_code}"
    if response.status_code in {429, 502, 503, 504}:
        raise FetchFailed(message)
    raise InvalidPicture(message)


@contextmanager
def translated(what: str, unreachable: type[ConnectionFailed] = ConnectionFailed) -> Iterator[None]:
    """Raises httpx2's errors as errors of this package."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise unreachable(f"{what} cannot be reached: no connection within {CONNECT_TIMEOUT_S:g} s") from error
    except httpx2.TimeoutException as error:
        raise DeadlineExceeded(f"{what} did not answer in time") from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
        raise ClientError(f"{what} cannot be asked: {error}") from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise unreachable(f"{what} cannot be reached or went away: {error or type(error).__name__}") from error


def _json(response: httpx2.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise ClientError("the answer is not JSON; is the server's address that of the gateway?") from error


def _seconds(retry_after: str | None) -> float | None:
    """Reads Retry-After in seconds; the gateway does not use its other form, a date."""
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else None
