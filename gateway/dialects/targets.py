"""Asks for any number of targets of a dialect's request."""

from collections.abc import Sequence
from typing import Final

from gateway.answers.segmentation import Segmentation, check_complete, joined
from gateway.call import Call, Question
from gateway.errors import ApiError
from gateway.inputs.prompts import MAX_TARGETS, segment_prompt
from gateway.inputs.read import EncodedImage

MAX_TARGETS_OF_A_REQUEST: Final = 64


async def ask_targets(call: Call, targets: Sequence[str], image: EncodedImage, *, model_id: str | None) -> Segmentation:
    """Returns one answer to all targets; each object's `target` is its index in `targets`.

    Up to eight targets are one request to Triton. Further targets follow in later requests, which cost less, since the
    server keeps the image's features.

    Args:
        call: the request.
        targets: names of objects, without the separator of targets; none of them empty.
        image: an encoded image file.
        model_id: None for the default.

    Raises:
        ApiError: there are none or too many targets, or Triton does not answer all of them.
    """
    if not 0 < len(targets) <= MAX_TARGETS_OF_A_REQUEST:
        message = f"there are {len(targets)} prompts; send 1 to {MAX_TARGETS_OF_A_REQUEST}"
        raise ApiError("invalid_prompt", message)
    images = [image]
    del image  # so that the last request can free it
    answers: list[Segmentation] = []
    for start in range(0, len(targets), MAX_TARGETS):
        batch = targets[start : start + MAX_TARGETS]
        question = Question(segment_prompt(batch), model_id)
        is_last = start + MAX_TARGETS >= len(targets)
        answer = await call.ask(question, images.pop() if is_last else images[0])
        check_complete(answer)
        answers.append(answer)
    call.record.sizes["objects"] = sum(len(answer.objects) for answer in answers)
    return joined(answers)
