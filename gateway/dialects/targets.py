"""Asks for any number of targets of a dialect's request."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.answers.segmentation import Segmentation, check_complete
from gateway.call import Call, Question
from gateway.errors import ApiError
from gateway.inputs.prompts import DEFAULT_TASK, MAX_TARGETS, TARGET_SEPARATOR
from gateway.inputs.read import EncodedImage

MAX_TARGETS_OF_A_REQUEST: Final = 64
JOINER: Final = f" {TARGET_SEPARATOR} "


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
        question = Question(f"{DEFAULT_TASK} {JOINER.join(batch)}", model_id)
        is_last = start + MAX_TARGETS >= len(targets)
        answer = await call.ask(question, images.pop() if is_last else images[0])
        check_complete(answer)
        answers.append(_with_targets_from(start, answer))
    call.record.sizes["objects"] = sum(len(answer.objects) for answer in answers)
    return replace(
        answers[0],
        objects=[found for answer in answers for found in answer.objects],
        targets=[target for answer in answers for target in answer.targets],
        text=JOINER.join(answer.text for answer in answers),
    )


def _with_targets_from(start: int, answer: Segmentation) -> Segmentation:
    """Returns the answer with its targets counted from `start`."""
    if start == 0:
        return answer
    return replace(answer, objects=[replace(found, target=found.target + start) for found in answer.objects])
