"""Channel options and inputs with which scripts call Triton's `segment` and `paligemma` over gRPC."""

from typing import Final

import numpy as np
from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE, InferInput

# Our own servers are never behind the environment's proxy. If any option is given, tritonclient drops its own defaults.
CHANNEL_OPTIONS: Final = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
]


def segment_inputs(
    image: bytes, prompt: str, max_new_tokens: int | None = None, model_id: str | None = None
) -> list[InferInput]:
    """Inputs of a request: an encoded image, a prompt with its task word; optionally a bound on tokens, a model id."""
    values = {"image": image, "prompt": prompt.encode(), **({"model_id": model_id.encode()} if model_id else {})}
    inputs = [
        InferInput(name, [1], "BYTES").set_data_from_numpy(np.array([value], np.object_))
        for name, value in values.items()
    ]
    if max_new_tokens is not None:
        bound = np.array([max_new_tokens], np.int32)
        inputs.append(InferInput("max_new_tokens", [1], "INT32").set_data_from_numpy(bound))
    return inputs
