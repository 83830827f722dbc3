"""Triton adapter of `paligemma_tokens`: reads a request, parses the answer, responds."""

from typing import Any

import triton_python_backend_utils as pb_utils

from paligemma_tokens import InvalidTokens, parse_answer, to_tensors


class TritonPythonModel:
    """Turns PaliGemma's tokens into boxes, codes, labels and scores."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request."""
        return [_respond(request) for request in requests]


def _respond(request: Any) -> Any:
    def read(name: str) -> list[Any]:
        values: list[Any] = pb_utils.get_input_tensor_by_name(request, name).as_numpy().tolist()
        return values

    try:
        objects = parse_answer(read("tokens"), read("logprobs"), read("sequence"), read("targets"))
    except InvalidTokens as error:
        refusal = pb_utils.TritonError(f"[invalid_argument] {error}", pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse([], error=refusal)
    tensors = to_tensors(objects)
    outputs = {
        "boxes": tensors.boxes_xyxy,
        "codes": tensors.codes,
        "labels": tensors.labels,
        "scores": tensors.scores,
        "has_mask": tensors.has_mask,
        "target": tensors.target,
        "targets": pb_utils.get_input_tensor_by_name(request, "targets").as_numpy(),
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])
