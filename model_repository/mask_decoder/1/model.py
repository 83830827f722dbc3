"""Triton adapter of `mask_vae`: reads a request, decodes the masks, responds."""

import os
from typing import Any

import triton_python_backend_utils as pb_utils

from mask_vae import InvalidCodes, MaskVae, MaskVaeConfig


class TritonPythonModel:
    """Turns mask codes into masks."""

    def initialize(self, _args: dict[str, str]) -> None:
        """Loads the weights and compiles before the model is ready, so that no request waits for compilation."""
        self._vae = MaskVae.start(MaskVaeConfig.from_env(os.environ))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        codes = pb_utils.get_input_tensor_by_name(request, "codes").as_numpy()
        try:
            masks = self._vae.decode(codes)
        except InvalidCodes as error:
            refusal = pb_utils.TritonError(f"[invalid_argument] {error}", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse([], error=refusal)
        return pb_utils.InferenceResponse([pb_utils.Tensor("masks", masks)])
