"""Errors of requests, and errors that stop the engine.

Each error has a code, which clients rely on, and the name of a Triton status:

    EngineError
      InvalidImage       invalid_image      INVALID_ARG
      ImageTooLarge      image_too_large    INVALID_ARG
      InvalidPrompt      invalid_prompt     INVALID_ARG
      InvalidArgument    invalid_argument   INVALID_ARG
      ModelNotAllowed    model_not_allowed  NOT_FOUND
      ModelGated         model_gated        NOT_FOUND
      ModelNotFound      model_not_found    NOT_FOUND
      ModelFailed        model_failed       INTERNAL
      HubFailed          hub_failed         INTERNAL
      Loading            loading            UNAVAILABLE
      Overloaded         overloaded         UNAVAILABLE
      Stopping           unavailable        UNAVAILABLE
      DeadlineExceeded   deadline           CANCELLED
      Cancelled          cancelled          CANCELLED
      InternalError      internal           INTERNAL
"""

from typing import ClassVar


class EngineError(Exception):
    """Base of this package's errors; the message says what to do."""

    code: ClassVar[str] = "internal"
    status: ClassVar[str] = "INTERNAL"

    def __str__(self) -> str:
        """`[code] message`, the form that clients see."""
        return f"[{self.code}] {super().__str__()}"


class InvalidImage(EngineError):
    """The bytes are not an image of an accepted format, or are damaged."""

    code = "invalid_image"
    status = "INVALID_ARG"


class ImageTooLarge(EngineError):
    """The image has more bytes or pixels than the server accepts."""

    code = "image_too_large"
    status = "INVALID_ARG"


class InvalidPrompt(EngineError):
    """The prompt is empty, too long, or has too many targets."""

    code = "invalid_prompt"
    status = "INVALID_ARG"


class InvalidArgument(EngineError):
    """Another argument is out of range."""

    code = "invalid_argument"
    status = "INVALID_ARG"


class ModelNotAllowed(EngineError):
    """The request names a model that this server does not serve."""

    code = "model_not_allowed"
    status = "NOT_FOUND"


class ModelGated(EngineError):
    """The hub requires a token, or that its licence is accepted."""

    code = "model_gated"
    status = "NOT_FOUND"


class ModelNotFound(EngineError):
    """There is no such model or revision."""

    code = "model_not_found"
    status = "NOT_FOUND"


class ModelFailed(EngineError):
    """A checkpoint cannot be loaded or served."""

    code = "model_failed"
    status = "INTERNAL"


class HubFailed(EngineError):
    """The hub cannot be reached, or its files differ from their listed digests."""

    code = "hub_failed"
    status = "INTERNAL"


class Loading(EngineError):
    """The model is not loaded yet; the caller should try again later."""

    code = "loading"
    status = "UNAVAILABLE"


class Overloaded(EngineError):
    """The server accepts no more requests at the moment; the caller should try again later."""

    code = "overloaded"
    status = "UNAVAILABLE"


class Stopping(EngineError):
    """The server is being stopped; the caller should ask another one, or try again later."""

    code = "unavailable"
    status = "UNAVAILABLE"


class DeadlineExceeded(EngineError):
    """The deadline passed before any target was answered."""

    code = "deadline"
    status = "CANCELLED"


class Cancelled(EngineError):
    """The caller left."""

    code = "cancelled"
    status = "CANCELLED"


class InternalError(EngineError):
    """A fault of this server; the log has the cause."""
