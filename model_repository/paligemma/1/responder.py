"""Answers one Triton request."""

import logging
import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from paligemma_engine import Answer, EngineError, Outcome, to_tensors
from paligemma_engine.errors import InternalError

_log = logging.getLogger(__name__)


class Responder:
    """A request's response sender, safe to use from several threads.

    Triton frees what a sender points to when its answer has gone out. Asking whether the request is cancelled at
    that moment crashes the server (seen with 2.51), so asking and answering exclude each other here.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._answered = False

    def is_cancelled(self) -> bool:
        """Whether the caller has closed the connection; a round trip to the server."""
        with self._lock:
            return not self._answered and bool(self._sender.is_cancelled())

    def answer(self, outcome: Outcome) -> None:
        """Sends the one response; an answer that cannot be converted to tensors becomes an error.

        Raises:
            Exception: it was not sent, and no second attempt is possible: Triton closes a sender first.
        """
        response = _error(outcome) if isinstance(outcome, EngineError) else _answer(outcome)
        with self._lock:
            self._answered = True
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _answer(answer: Answer) -> Any:
    try:
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in to_tensors(answer).items()])
    except Exception:
        _log.exception("no response could be made of an answer")
        return _error(InternalError("the answer could not be built; the server's log has the cause"))


def _error(error: EngineError) -> Any:
    status = getattr(pb_utils.TritonError, error.status)
    return pb_utils.InferenceResponse([], error=pb_utils.TritonError(str(error), status))
