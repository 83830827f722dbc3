"""Why a URL was not fetched."""

from typing import Final

from gateway.errors import ApiError

UNREACHABLE: Final = "image_url cannot be fetched: its host does not exist, does not answer, or may not be reached"


class LookupFailed(ApiError):
    """The gateway's own name server does not answer; this is not the caller's fault."""

    def __init__(self, detail: str) -> None:
        super().__init__("lookup_failed", detail)


class FetchBlocked(ApiError):
    """A URL whose address is not allowed, or does not exist.

    The caller gets the same message in both cases, so that the gateway reveals nothing about a private network.

    Attributes:
        reason: for the operator's log and metrics: private, unresolvable, port, unreachable.
    """

    def __init__(self, reason: str, host: str) -> None:
        super().__init__("fetch_failed", UNREACHABLE)
        self.reason = reason
        self.notes = {"reason": reason, "host": host}
