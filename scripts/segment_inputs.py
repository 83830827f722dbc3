"""What Triton's models are sent: the inputs of `segment` and `paligemma`, for scripts that call them over gRPC."""

import numpy as np
from tritonclient.grpc import InferInput


def segment_inputs(image: bytes, prompt: str) -> list[InferInput]:
    """The two inputs that every request has: an encoded image, and a prompt with its task word."""
    values = {"image": image, "prompt": prompt.encode()}
    return [
        InferInput(name, [1], "BYTES").set_data_from_numpy(np.array([value], np.object_))
        for name, value in values.items()
    ]
