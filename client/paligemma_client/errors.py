"""The errors of this package.

ClientError
  InvalidPicture        the picture cannot be read on this side
  UnsupportedCall       the transport has no such call
  ConnectionFailed      the server cannot be reached, or went away
    DeadlineExceeded    no answer within the time that the caller gave
    FetchFailed         the same of a picture's host
  IncompleteAnswer      the server did not finish the answer to a target
  ServerError           the server answered with an error; it has a code
    RequestRefused      the request is at fault
      NotAllowed        the key or the model is not accepted
    ServerBusy          the server is full or still loading
    ServerFailed        the server is at fault
"""

from collections.abc import Mapping
from typing import Final


class ClientError(Exception):
    """Base of all errors of this package."""


class InvalidPicture(ClientError):
    """The client cannot read a picture."""


class UnsupportedCall(ClientError):
    """The transport in use has no such call."""


class ConnectionFailed(ClientError):
    """The server cannot be reached, or closed the connection before its answer."""


class DeadlineExceeded(ConnectionFailed):
    """There was no answer within the time that the caller gave."""


class FetchFailed(ConnectionFailed):
    """A picture's host cannot be reached, or does not send the picture now."""


class IncompleteAnswer(ClientError):
    """The server did not finish the answers to all targets, so objects may be missing.

    Attributes:
        targets: the name of each such target, and its finish_reason: deadline, cancelled or error.
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        named = ", ".join(f"{name!r} ({reason})" for name, reason in targets.items())
        super().__init__(f"the server did not finish the answer to {named}: send the request again")
        self.targets = targets


class ServerError(ClientError):
    """The server's answer is an error.

    Attributes:
        code: what programs can switch on; "unknown" where the answer is not the gateway's, such as a proxy's.
        detail: what the caller can do, in words.
        status: the HTTP status; None over gRPC.
        request_id: for the server's logs; None where the answer has none.
        retry_after_s: how long the server asks to wait; None where it does not say.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"[{code}] {detail}")
        self.code = code
        self.detail = detail
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class RequestRefused(ServerError):
    """The request is wrong: sending it again does not help."""


class NotAllowed(RequestRefused):
    """The key is missing or wrong, or the model may not be used."""


class ServerBusy(ServerError):
    """The server is full, loading or starting: sending the request again later may help."""


class ServerFailed(ServerError):
    """The server failed."""


UNKNOWN_CODE: Final = "unknown"

# The gateway's and the engine's codes; over gRPC there is no status to go by.
KIND_OF_CODE: Final[Mapping[str, type[ServerError]]] = {
    "invalid_image": RequestRefused,
    "image_too_large": RequestRefused,
    "invalid_prompt": RequestRefused,
    "invalid_argument": RequestRefused,
    "model_not_found": RequestRefused,
    "model_not_allowed": NotAllowed,
    "model_gated": NotAllowed,
    "unauthorized": NotAllowed,
    "loading": ServerBusy,
    "overloaded": ServerBusy,
    "unavailable": ServerBusy,
}
_NOT_ALLOWED: Final = frozenset({401, 403})
_BUSY: Final = frozenset({429, 503})
_NO_SUCH_ROUTE: Final = frozenset({404, 405})
_FIRST_SERVER_STATUS: Final = 500


def kind_of_status(status: int) -> type[ServerError]:
    """The class of an HTTP error."""
    if status in _BUSY:
        return ServerBusy
    if status in _NOT_ALLOWED:
        return NotAllowed
    return ServerFailed if status >= _FIRST_SERVER_STATUS else RequestRefused


def has_no_stream(error: ServerError) -> bool:
    """Whether the server is one that does not stream (and not one that lacks the model, which is a 404, too)."""
    return error.status in _NO_SUCH_ROUTE and error.code != "model_not_found"
