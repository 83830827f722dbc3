"""Checks the form of a URL, before any look-up."""

from dataclasses import dataclass
from typing import Final

import httpx2

from gateway.errors import ApiError

SCHEMES: Final = ("http", "https")
MAX_URL_LENGTH: Final = 8192
MAX_PORT: Final = 65535
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """What a credential belongs to.

    Attributes:
        scheme: http or https.
        host: as the network is asked for it: in lower case, IDNA-encoded.
        port: also where the URL leaves it out.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx2.URL) -> "Origin":
        """The origin of a URL that `parse_url` has accepted."""
        return cls(url.scheme, url.raw_host.decode("ascii"), url.port or DEFAULT_PORTS[url.scheme])


def parse_url(text: str) -> httpx2.URL:
    """Parses a URL that can be fetched. Raises ApiError; its message never contains the URL."""
    if len(text) > MAX_URL_LENGTH:
        raise ApiError("invalid_url", f"image_url is too long; at most {MAX_URL_LENGTH} characters")
    try:
        return _checked(httpx2.URL(text))
    except (httpx2.InvalidURL, ValueError, UnicodeError) as error:
        raise ApiError("invalid_url", "image_url is not a valid URL") from error


def redirected(url: httpx2.URL, location: str) -> httpx2.URL:
    """Returns the target of a redirect. Raises ApiError if it is not a URL that can be fetched."""
    try:
        return parse_url(str(url.join(location)))
    except (httpx2.InvalidURL, ValueError, UnicodeError):  # `from None`: its text has the URL, which must not be logged
        raise ApiError("fetch_failed", "image_url redirects to something that is not a URL") from None


def _checked(url: httpx2.URL) -> httpx2.URL:
    """Checks scheme, user, port and host. Raises ApiError."""
    if url.scheme not in SCHEMES:
        raise ApiError("invalid_url", "image_url must be a http:, https: or data: URL")
    if url.userinfo:
        raise ApiError("invalid_url", "image_url must not hold a user or a password")
    if url.port is not None and not 1 <= url.port <= MAX_PORT:
        raise ApiError("invalid_url", "image_url has a port that does not exist")
    if not url.host:
        raise ApiError("invalid_url", "image_url has no host")
    return url
