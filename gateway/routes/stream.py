"""POST /segment/stream: the answer to /segment in parts; each target's objects are sent when the target is decoded.

accepted   {"request_id", "targets"}     the names of the prompt's targets
object     {"target", "object"}          an entry of /segment's `masks`, and the index of its target
done       {...}                         what /segment answers, without `masks`
error      {...}                         the body of an error; the last event, in place of `done`
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

import anyio
from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from gateway.answers.events import COMMENT, EventStream, encode_event
from gateway.answers.response import build_masks, response_with
from gateway.answers.segmentation import Segmentation, Target, joined
from gateway.call import Call
from gateway.documentation import error_responses, event_responses, request_body
from gateway.door.deadline import time_is_up
from gateway.errors import ApiError, late_error_body
from gateway.inputs.prompts import split_prompt, with_task
from gateway.inputs.read import EncodedImage, SegmentInput
from gateway.routes.segment import image_of, question_of, receive
from gateway.triton.client import ANSWER_GRACE_S

BEGIN_AFTER_S: Final = 0.25  # Triton's refusals usually come sooner, so they keep their own HTTP status
COMMENT_EVERY_S: Final = 5.0
LAST_SENDING_S: Final = 1.0  # for the objects of answers that come at the last moment

# The engine's finish_reason of a target that was not answered while others were, by the error of the target alone.
FINISH_REASONS: Final = {"internal": "error", "deadline": "deadline"}

Work = Callable[[], Awaitable[None]]

router = APIRouter()


@router.post(
    "/segment/stream",
    summary="The same, with each object as soon as it is found",
    response_class=Response,
    responses={**event_responses(), **error_responses()},
    openapi_extra=request_body(),
)
async def stream(request: Request) -> Response:
    """Server-sent events: `accepted`, an `object` for each object found, then `done`, or `error`."""
    call = Call.begin(request)
    return StreamedAnswer(call, await receive(call))


class StreamedAnswer(Response):
    """Sends one request per target, all at once, and sends the answers in the order of arrival.

    An error before the first event becomes an ordinary answer; a later one becomes the last event.
    """

    def __init__(self, call: Call, received: SegmentInput) -> None:
        super().__init__()
        self._call = call
        self._received = received
        self._form = received.form
        self._targets = split_prompt(with_task(received.form.prompt))
        self._parts: dict[int, Segmentation] = {}  # by target's number
        self._failures: dict[int, ApiError] = {}  # by target's number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Sends the answer. Like other answers, the last event is sent after the request's place is free."""
        accepted = {
            "request_id": self._call.record.request_id,
            "targets": [target.target for target in self._targets],
        }
        stream = EventStream(send, encode_event("accepted", json.dumps(accepted)))
        try:
            last = await self._call.answered(lambda: self._answer(stream))
        except Exception as error:
            if not stream.begun:
                raise
            last = encode_event("error", json.dumps(late_error_body(self._call.request, error)))
        await stream.send(last, more=False)

    async def _answer(self, stream: EventStream) -> bytes:
        """Sends the objects; returns the event `done`."""
        call = self._call
        images = [await image_of(call, self._received)] * len(self._targets)
        copies_bytes = len(images[0]) * (len(images) - 1)  # each target's request holds one; the first is counted
        call.share.check(copies_bytes)
        # Each target ends by itself when its time is up, as in /segment. This limit is for a client that reads too
        # slowly, and comes after the last of those ends.
        limit_s = call.deadline.remaining_s() + ANSWER_GRACE_S + LAST_SENDING_S
        try:
            with call.share.holding(copies_bytes), anyio.fail_after(limit_s):
                works = [partial(self._answer_target, number, images, stream) for number in range(len(images))]
                await _all_of(works, beside=partial(_keep_alive, stream))
        except TimeoutError as error:
            raise time_is_up() from error
        if not self._parts:
            raise self._worst_failure()
        return await call.in_encoder(self._encode_done)

    async def _answer_target(self, number: int, images: list[EncodedImage], stream: EventStream) -> None:
        """Asks for one target. Takes one reference to the image; it is freed when all requests are serialised."""
        question = replace(question_of(self._form), prompt=self._targets[number].prompt)
        try:
            part = await self._call.ask(question, images.pop())
            events = await self._call.in_encoder(partial(self._encode_objects, number, part))
        except ApiError as error:
            if error.code not in FINISH_REASONS:
                raise
            self._failures[number] = error
            return
        if self._parts:  # all show the same image: one is enough
            part = replace(part, input_image=next(iter(self._parts.values())).input_image)
        self._parts[number] = part
        with self._call.share.holding(sum(map(len, events))):
            await stream.begin()
            for event in events:
                await stream.send(event)

    def _encode_objects(self, number: int, part: Segmentation) -> list[bytes]:
        with self._call.record.phase("encode"):
            masks = build_masks(self._form, part, self._call.checkpoint)
            return [
                encode_event(
                    "object",
                    f'{{"target":{number},"object":{mask.model_copy(update={"target": number}).model_dump_json()}}}',
                )
                for mask in masks
            ]

    def _encode_done(self) -> bytes:
        call = self._call
        with call.record.phase("encode"):
            whole = self._whole()
            response = response_with([], self._form, whole, call.record, default_model_id=call.settings.model_id)
        response.timings_ms = call.record.timings_ms
        return encode_event("done", response.model_dump_json(exclude={"masks"}))

    def _whole(self) -> Segmentation:
        """Returns the answer to the whole prompt as the engine builds it: a failed target does not lose the others."""
        return joined([self._parts.get(number) or self._unanswered(number) for number in range(len(self._targets))])

    def _unanswered(self, number: int) -> Segmentation:
        answered = next(iter(self._parts.values()))
        target = Target(self._targets[number].target, FINISH_REASONS[self._failures[number].code])
        return replace(answered, objects=[], targets=[target], text="")

    def _worst_failure(self) -> ApiError:
        """Where no target was answered, the engine says that the time was up if it was so for any."""
        failures = list(self._failures.values())
        return next((failure for failure in failures if failure.code == "deadline"), failures[0])


async def _keep_alive(stream: EventStream) -> None:
    """Begins the answer if no target is decoded soon, and sends comments meanwhile."""
    await anyio.sleep(BEGIN_AFTER_S)
    await stream.begin()
    while True:
        await anyio.sleep(COMMENT_EVERY_S)
        await stream.send(COMMENT)


async def _all_of(works: Iterable[Work], *, beside: Work) -> None:
    """Runs several works at once, and `beside` until they are done. The first error cancels all and is raised."""
    errors: list[Exception] = []

    async def run(work: Work) -> None:
        try:
            await work()
        except Exception as error:
            errors.append(error)
            everything.cancel_scope.cancel()

    async with anyio.create_task_group() as everything:
        everything.start_soon(run, beside)
        async with anyio.create_task_group() as group:
            for work in works:
                group.start_soon(run, work)
        everything.cancel_scope.cancel()
    if errors:
        raise errors[0]
