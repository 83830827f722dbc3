"""Fetches the image behind a URL."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import httpcore2
import httpx2

from gateway.errors import ApiError
from gateway.fetching.addresses import AddressPolicy
from gateway.fetching.errors import UNREACHABLE, FetchBlocked
from gateway.fetching.network import CheckedNetwork, Resolve
from gateway.fetching.urls import Origin, parse_url, redirected

MAX_REDIRECTS: Final = 3
MAX_FETCH_S: Final = 15.0  # in all, redirects included
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
CONTENT_TYPES: Final = ("image/", "application/octet-stream", "binary/octet-stream")

# No content encoding is accepted, so that the size limit applies to the bytes that are kept.
_HEADERS: Final[dict[bytes | str, bytes | str]] = {
    "Accept": "image/*, */*;q=0.1",  # not images alone: some frameworks answer 406 to that, whatever they have
    "Accept-Encoding": "identity",
    "User-Agent": "paligemma-gateway",
}


class Fetcher:
    """Fetches images; the application has one.

    It keeps no connections and no cookies, and ignores the environment's proxy settings.
    """

    def __init__(
        self,
        *,
        resolve: Resolve,
        policy: AddressPolicy,
        max_image_bytes: int,
        on_blocked: Callable[[str], None] = lambda _reason: None,
        ssl_context: ssl.SSLContext | None = None,
        trusted: Origin | None = None,
        trusted_only: bool = False,
    ) -> None:
        """`on_blocked` is called with the reason each time a fetch is refused.

        `trusted` is a server that the operator names: it may have any address, and gets what authorizes a fetch. With
        `trusted_only`, no other server is asked, even where it redirects to one.
        """
        self._network = CheckedNetwork(resolve, policy, trusted)
        self._trusted = trusted
        self._trusted_only = trusted_only
        self._max_image_bytes = max_image_bytes
        self._on_blocked = on_blocked
        self._ssl_context = ssl_context or httpcore2.default_ssl_context()

    async def fetch(
        self,
        text: str,
        *,
        timeout_s: float,
        on_received: Callable[[int], None] = lambda _count: None,
        authorization: str | None = None,
    ) -> bytes:
        """Returns the body behind a URL. Raises ApiError.

        Args:
            text: the URL.
            timeout_s: for all of it.
            on_received: called with the size of each chunk.
            authorization: header for the trusted server; no other server gets it, not even by a redirect.
        """
        try:
            async with asyncio.timeout(min(timeout_s, MAX_FETCH_S)):
                return await self._fetch(parse_url(text), on_received, authorization)
        except FetchBlocked as blocked:
            self._on_blocked(blocked.reason)
            raise
        except TimeoutError as error:
            raise ApiError("fetch_failed", "image_url took too long to answer") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            raise ApiError("fetch_failed", UNREACHABLE) from error

    async def _fetch(self, url: httpx2.URL, on_received: Callable[[int], None], authorization: str | None) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            if self._trusted_only and Origin.of(url) != self._trusted:
                raise ApiError("fetch_failed", "image_url leads to another server, and URL_FETCH is off")
            async with (
                httpcore2.AsyncConnectionPool(ssl_context=self._ssl_context, network_backend=self._network) as pool,
                _get(pool, url, authorization if Origin.of(url) == self._trusted else None) as response,
            ):
                headers = httpx2.Headers(response.headers)
                if response.status not in REDIRECTS:
                    _check(response.status, headers)
                    return await self._read(response, headers, on_received)
                if "location" not in headers:
                    raise ApiError("fetch_failed", "image_url redirects to nowhere")
                url = redirected(url, headers["location"])
        raise ApiError("fetch_failed", f"image_url redirects more than {MAX_REDIRECTS} times")

    async def _read(
        self, response: httpcore2.Response, headers: httpx2.Headers, on_received: Callable[[int], None]
    ) -> bytes:
        """Reads the body; raises ApiError when it exceeds the limit, whatever Content-Length says."""
        received = bytearray()
        declared = headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_image_bytes:
            raise self._too_large()
        async for chunk in response.aiter_stream():
            on_received(len(chunk))
            received += chunk
            if len(received) > self._max_image_bytes:
                raise self._too_large()
        return bytes(received)

    def _too_large(self) -> ApiError:
        return ApiError("image_too_large", f"the image behind image_url has more than {self._max_image_bytes} bytes")


def _get(
    pool: httpcore2.AsyncConnectionPool, url: httpx2.URL, authorization: str | None
) -> AbstractAsyncContextManager[httpcore2.Response]:
    # raw_host is the IDNA-encoded host that was checked; it is not parsed a second time.
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    headers = {"Host": url.netloc.decode("ascii"), **_HEADERS}
    if authorization is not None:
        headers["Authorization"] = authorization
    return pool.stream("GET", target, headers=headers)


def _check(status: int, headers: httpx2.Headers) -> None:
    if status != httpx2.codes.OK:
        raise ApiError("fetch_failed", f"image_url was answered with status {status}")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError("fetch_failed", "image_url was answered in an encoding that was not asked for")
    media_type = headers.get("content-type", CONTENT_TYPES[1]).lower()
    if not media_type.startswith(CONTENT_TYPES):
        raise ApiError("unsupported_media_type", "image_url leads to something that is not an image")
