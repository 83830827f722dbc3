"""The steps of each call. A plan is a generator: it yields steps that need the network or time, and gets the results.

`Client` and `AsyncClient` perform the steps; everything else that both do is here.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from paligemma_client.errors import ClientError, ServerError, UnsupportedCall, has_no_stream
from paligemma_client.objects import FoundObject, Result
from paligemma_client.pictures import Picture, is_web_address, read_picture
from paligemma_client.questions import TARGET_SEPARATOR, Asking, Prompt, Question, Task, prompts_of
from paligemma_client.retrying import Pause, persist
from paligemma_client.tiling import cut_tiles, merge_tiles


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch a picture from the web; the result is bytes."""

    address: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a question to the server; the result is a Result."""

    question: Question
    timeout_s: float


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Send a question and open its stream of objects; the result is the client's own type of stream."""

    question: Question
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ListModels:
    """List the server's models; the result is Models."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A plan has ended with this value."""

    value: Any


Step = Fetch | Ask | OpenStream | ListModels | Pause
Given = TypeVar("Given")
Plan = Generator[Step, Any, Given]


def advance(plan: Plan[Any], outcome: Any = None, *, error: ClientError | None = None) -> Step | Finished:
    """Sends a plan the result or the error of its last step; returns its next step."""
    try:
        return plan.send(outcome) if error is None else plan.throw(error)
    except StopIteration as stop:
        return Finished(stop.value)


def segment(picture: Picture, prompt: Prompt, task: Task, asking: Asking, timeout_s: float) -> Plan[Result]:
    """One picture, one answer, in as many requests as it takes."""
    encoded = yield from _encoded(picture, timeout_s)
    prompts = prompts_of(task, prompt)
    if asking.tiles is None:
        return (yield from _ask_all(encoded, prompts, asking, timeout_s))
    tiles = cut_tiles(encoded, asking.tiles)
    answers = []
    for tile in tiles:
        answers.append((yield from _ask_all(tile.picture, prompts, asking, timeout_s)))
    return merge_tiles(tiles, answers, picture=encoded)


def questions(picture: Picture, prompt: Prompt, task: Task, asking: Asking, timeout_s: float) -> Plan[list[Question]]:
    """The questions of a call that streams objects."""
    if asking.tiles is not None:
        raise ValueError("objects of tiles are put together at the end: use segment, not stream")
    encoded = yield from _encoded(picture, timeout_s)
    return [Question(picture=encoded, prompt=text, asking=asking) for text in prompts_of(task, prompt)]


def open_stream(question: Question, timeout_s: float) -> Plan[Any]:
    """Opens a stream; returns a Result if the server does not stream."""
    try:
        return (yield from persist(lambda remaining_s: OpenStream(question, remaining_s), timeout_s))
    except UnsupportedCall:
        pass
    except ServerError as error:
        if not has_no_stream(error):
            raise
    return (yield from _ask(question, timeout_s))


def list_models(timeout_s: float) -> Plan[Any]:
    """The server's models."""
    return (yield from persist(ListModels, timeout_s))


def _encoded(picture: Picture, timeout_s: float) -> Plan[bytes]:
    if not is_web_address(picture):
        return read_picture(picture)
    address = str(picture)
    fetched: bytes = yield from persist(lambda remaining_s: Fetch(address, remaining_s), timeout_s)
    return fetched


def _ask_all(encoded: bytes, prompts: Sequence[str], asking: Asking, timeout_s: float) -> Plan[Result]:
    answers = []
    for prompt in prompts:
        question = Question(picture=encoded, prompt=prompt, asking=asking)
        answers.append((yield from _ask(question, timeout_s)))
    return answers[0] if len(answers) == 1 else _together(answers)


def _ask(question: Question, timeout_s: float) -> Plan[Result]:
    result: Result = yield from persist(lambda remaining_s: Ask(question, remaining_s), timeout_s)
    return result


def _together(answers: Sequence[Result]) -> Result:
    """Joins the answers to several prompts on one picture."""
    first = answers[0]
    objects: list[FoundObject] = [found for answer in answers for found in answer.objects]
    return Result(
        objects=objects,
        width=first.width,
        height=first.height,
        text=TARGET_SEPARATOR.join(answer.text for answer in answers),
        targets=[target for answer in answers for target in answer.targets],
        model_id=first.model_id,
        request_id=first.request_id,
        timings_ms=first.timings_ms,
        picture=first.picture,
    )
