"""What Triton's models are sent: the inputs of `segment` and `paligemma`, for scripts that call them over gRPC."""

import numpy as np
from tritonclient.grpc import InferInput


def segment_inputs(
    image: bytes, prompt: str, max_new_tokens: int | None = None, model_id: str | None = None
) -> list[InferInput]:
    """The inputs of a request: an encoded image, a prompt with its task word, maybe a bound on the tokens, a model."""
    values = {"image": image, "prompt": prompt.encode(), **({"model_id": model_id.encode()} if model_id else {})}
    inputs = [
        InferInput(name, [1], "BYTES").set_data_from_numpy(np.array([value], np.object_))
        for name, value in values.items()
    ]
    if max_new_tokens is not None:
        bound = np.array([max_new_tokens], np.int32)
        inputs.append(InferInput("max_new_tokens", [1], "INT32").set_data_from_numpy(bound))
    return inputs
