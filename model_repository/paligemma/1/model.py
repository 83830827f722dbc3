"""Triton adapter of `paligemma_engine`: hands requests over, and answers each when the engine calls back."""

import logging
import os
import sys
import time
from typing import Any

import triton_python_backend_utils as pb_utils
from cancellation import CancellationWatcher
from publisher import MetricsPublisher
from responder import Responder

from paligemma_engine import EngineConfig, EngineMetrics, Request
from paligemma_engine.errors import InternalError
from paligemma_engine.startup import start_models

_log = logging.getLogger(__name__)

_DRAIN_TIMEOUT_S = 20.0  # below tritonserver's own exit timeout of 30 s
_LAST_ANSWERS_S = 0.5  # for Triton to take the answers sent just before this process ends


class TritonPythonModel:
    """The models of one GPU, or of the CPU."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the checkpoint and warms it up; the model is ready when this returns."""
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        config = EngineConfig.from_env(os.environ, device=device, instance=args["model_instance_name"])
        metrics = EngineMetrics()
        self._publisher = MetricsPublisher(metrics, instance=config.instance)
        self._models = start_models(config, metrics, on_fatal=_end_process)
        self._watcher = CancellationWatcher(self._models.cancel)

    def execute(self, requests: list[Any]) -> None:
        """Hands the requests over and returns at once; the answers go out through their response senders."""
        for request in requests:
            responder = Responder(request.get_response_sender())
            try:
                wanted = _read(request)
            except Exception:  # must not affect the other requests of this call
                _log.exception("a request could not be read")
                responder.answer(InternalError("the request could not be read; the server's log has the cause"))
                continue
            self._watcher.watch(self._models.submit(wanted, responder.answer), responder)

    def finalize(self) -> None:
        """Lets running requests end, and answers the others with an error."""
        self._models.close(_DRAIN_TIMEOUT_S)
        self._watcher.close()
        self._publisher.close()


def _read(request: Any) -> Request:
    def read(name: str) -> Any:
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()[0]

    model_id, max_new_tokens, timeout_us = read("model_id"), read("max_new_tokens"), request.timeout()
    return Request(
        image=read("image"),
        prompt=read("prompt").decode(errors="replace"),
        model_id=None if model_id is None else model_id.decode(errors="replace"),
        max_new_tokens=None if max_new_tokens is None else int(max_new_tokens),
        timeout_s=timeout_us / 1e6 if timeout_us else None,
    )


def _end_process() -> None:
    """Ends a stub whose engine has died, so that the supervisor notices."""
    time.sleep(_LAST_ANSWERS_S)
    os._exit(1)
