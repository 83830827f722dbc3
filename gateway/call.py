"""One call of the service: what every route that segments shares.

A route reads its own kind of request, gets the image, asks Triton, and writes its own kind of answer; each of these
steps ends at the call's deadline, and when its client has gone.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import anyio
from anyio import from_thread, to_thread
from fastapi import Request

from gateway.answers.segmentation import Segmentation
from gateway.door.bodies import Share, share_of
from gateway.door.deadline import Deadline, time_is_up
from gateway.door.disconnect import while_connected
from gateway.errors import ApiError
from gateway.inputs.prompts import with_task
from gateway.inputs.read import EncodedImage, SegmentBody, read_body
from gateway.services import Services, services_of
from gateway.settings import Settings
from gateway.triton.wire import SegmentRequest, SerializedRequest, serialize_request
from gateway.watching.record import RequestRecord, record_of

# Of the time that is left, what the model may not take: it is for the answer's way back and its encoding. Without it an
# answer that is partial, since its time was up, would come when the gateway's own time is up, too.
RESERVE_SHARE: Final = 0.05
MIN_RESERVE_S: Final = 0.05
MAX_RESERVE_S: Final = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of an image.

    Attributes:
        prompt: as the user wrote it; without a task word it is a `segment` prompt.
        model_id: None for the default.
        max_new_tokens: most tokens for each target; None for the default.
    """

    prompt: str
    model_id: str | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request while it is served.

    Attributes:
        share: the request's part of the byte budget.
    """

    request: Request
    services: Services
    record: RequestRecord
    deadline: Deadline
    share: Share

    @classmethod
    def begin(cls, request: Request) -> "Call":
        """Starts the request's time; raises ApiError if the gateway serves as many requests as it can."""
        services = services_of(request)
        services.admission.check()
        deadline = Deadline(services.settings.request_timeout_s)
        return cls(request, services, record_of(request.scope), deadline, share_of(request.scope))

    @property
    def settings(self) -> Settings:
        """The gateway's settings."""
        return self.services.settings

    async def receive(self, decode: Callable[[SegmentBody], T]) -> T:
        """Reads the request's body and decodes it in a thread.

        Args:
            decode: makes the route's own record of the body.

        Raises:
            ApiError: the body does not come in time, or cannot be decoded.
        """
        with self.record.phase("receive"):
            try:
                with anyio.fail_after(self.deadline.remaining_s()):
                    body = await read_body(self.request)
            except TimeoutError as error:
                raise ApiError("request_timeout", "the request took too long to arrive") from error
            return await while_connected(self.request.receive, lambda: self.in_decoder(partial(decode, body)))

    async def answered(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does the work in one of the places for requests, as long as the client is there.

        Raises:
            ApiError: no place is free, the client has gone, or what the work raises.
        """
        with self.services.admission.admitted():
            return await while_connected(self.request.receive, work)

    async def fetch(self, url: str) -> EncodedImage:
        """Fetches an image from the web; raises ApiError if it cannot be had, or if this gateway fetches none."""
        if self.services.fetcher is None:
            raise ApiError("invalid_url", "image_url may only be a data: URL here; upload the image as image_file")
        with self.record.phase("fetch"):
            return await self.services.fetcher.fetch(
                url, timeout_s=self.deadline.remaining_s(), on_received=self.share.grow
            )

    async def ask(self, question: Question, image: EncodedImage) -> Segmentation:
        """Asks Triton; raises ApiError if there is no answer.

        While the answer is awaited, the image is held only within the serialised request, unless the caller keeps it.
        """
        self.record.sizes["image_bytes"] = len(image)
        serialized = await self.in_decoder(partial(self._serialize, question, image))
        del image
        started = time.monotonic()
        try:
            with self.record.phase("inference"):
                segmentation = await self.services.segmenter.segment(serialized, timeout_s=self.deadline.remaining_s())
        except ApiError as error:
            if error.code == "loading":
                waited_s = time.monotonic() - started
                error.retry_after_s = await self.services.catalog.retry_after_s(waited_s, self.deadline)
            raise
        sizes = self.record.sizes
        sizes["objects"] = sizes.get("objects", 0) + len(segmentation.objects)
        return segmentation

    def _serialize(self, question: Question, image: EncodedImage) -> SerializedRequest:
        """In a decoder's thread, so that the wait for it takes nothing of the reserve."""
        asked = SegmentRequest(
            image=image,
            prompt=with_task(question.prompt),
            model_id=question.model_id,
            max_new_tokens=question.max_new_tokens,
            timeout_s=model_time_s(self.deadline.remaining_s()),
            request_id=self.record.request_id,
        )
        return serialize_request(asked)

    async def in_decoder(self, work: Callable[[], T]) -> T:
        """Does CPU work in one of the decoders' threads; waits until the deadline. Work that has begun keeps its place.

        Raises:
            ApiError: the deadline has passed, or what the work raises.
        """
        try:
            with anyio.fail_after(self.deadline.remaining_s()):  # unlike asyncio's, it waits for the thread
                return await to_thread.run_sync(work, limiter=self.services.decoders)
        except TimeoutError as error:
            raise time_is_up() from error

    async def in_encoder(self, work: Callable[[], T]) -> T:
        """Does CPU work on an answer in one of the encoders' threads; it calls `checkpoint` between its parts."""
        return await to_thread.run_sync(work, limiter=self.services.encoders)

    def checkpoint(self) -> None:
        """For work in a thread: raises if the request was cancelled or its time is up."""
        from_thread.check_cancelled()
        self.deadline.remaining_s()


def model_time_s(remaining_s: float) -> float:
    """What the model may take of the time that is left, in seconds: all but the reserve, and at least half of it."""
    reserve_s = min(max(RESERVE_SHARE * remaining_s, MIN_RESERVE_S), MAX_RESERVE_S)
    return max(remaining_s - reserve_s, remaining_s / 2)
