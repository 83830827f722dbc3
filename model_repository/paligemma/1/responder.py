"""Answers one Triton request."""

import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from paligemma_engine import Answer, Outcome, to_tensors


class Responder:
    """A request's response sender, safe to ask and to answer from different threads.

    Triton frees what a sender points to when its answer has gone out. Asking whether the request is cancelled at
    that moment crashes the server (seen with 2.51), so asking and answering exclude each other here.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._answered = False

    def is_cancelled(self) -> bool:
        """Whether the caller has gone; a round trip to the server."""
        with self._lock:
            return not self._answered and bool(self._sender.is_cancelled())

    def answer(self, outcome: Outcome) -> None:
        """Sends the one response."""
        if isinstance(outcome, Answer):
            tensors = [pb_utils.Tensor(name, array) for name, array in to_tensors(outcome).items()]
            response = pb_utils.InferenceResponse(tensors)
        else:
            error = pb_utils.TritonError(str(outcome), getattr(pb_utils.TritonError, outcome.status))
            response = pb_utils.InferenceResponse([], error=error)
        with self._lock:
            self._answered = True
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
