"""Predictions for many tasks at once, within Label Studio's time limit.

Label Studio needs one entry for each task, in order. It stores an entry with a `result`, even an empty one, and does
not ask for that task again. It ignores an entry without a `result`, and asks for that task again.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel

from gateway.answers.segmentation import Segmentation, check_complete
from gateway.call import Call, Question
from gateway.dialects.label_studio.interface import Control, Interface, split_targets
from gateway.dialects.label_studio.pictures import Pictures
from gateway.dialects.label_studio.regions import SCORE_DECIMALS, Region, regions_of
from gateway.dialects.label_studio.schemas import Task
from gateway.errors import ApiError, cause_of
from gateway.inputs.prompts import MAX_TARGETS, segment_prompt
from gateway.inputs.read import EncodedImage
from gateway.settings import Settings

MAX_TASKS_AT_ONCE: Final = 16  # of one request; each takes one of the gateway's places
FIRST_PAUSE_S: Final = 0.25  # pause before another try; doubled up to the longest
LONGEST_PAUSE_S: Final = 4.0
PASSING_CODES: Final = frozenset({"loading", "overloaded", "unavailable", "lookup_failed"})  # worth another try
PICTURE_CODES: Final = frozenset(
    {"missing_image", "invalid_image", "image_too_large", "invalid_url"}
)  # the task's fault

Prediction = dict[str, Any]
T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Predictor:
    """Answers one request of Label Studio.

    Attributes:
        call: the request; its deadline is for all tasks together.
        model_version: Label Studio's name for these predictions.
        typed: a user's prompt in interactive requests; empty to ask for the interface's labels.
    """

    call: Call
    interface: Interface
    pictures: Pictures
    model_version: str
    typed: str

    async def predict(self, tasks: list[Task]) -> list[bytes]:
        """Returns one JSON entry for each task, in order, whatever happens."""
        entries = [b""] * len(tasks)
        waiting = iter(range(len(tasks)))  # each worker takes the next
        self.call.record.sizes.update(tasks=len(tasks), failed_tasks=0)

        async def work() -> None:
            for index in waiting:
                await anyio.lowlevel.checkpoint()  # after the deadline the others end at once
                with self.call.share.part() as share:
                    entries[index] = await self._entry(replace(self.call, share=share), tasks[index])

        async with anyio.create_task_group() as group:
            for _ in range(min(len(tasks), most_at_once(self.call.settings))):
                group.start_soon(work)
        return entries

    async def _entry(self, call: Call, task: Task) -> bytes:
        try:
            call.deadline.remaining_s()
            prediction = await self._prediction(call, task)
            encoded = await call.in_encoder(lambda: _encoded(prediction))
            self.call.share.grow(len(encoded))  # entries are kept until the last one is there
            return encoded
        except ApiError as error:
            self._note_failure(task, error.code, error.detail, cause_of(error))
            return _encoded(self._of([]) if error.code in PICTURE_CODES else self._unanswered())
        except Exception as error:  # a failed task does not affect the others
            self._note_failure(task, "internal", "the task failed", repr(error))
            return _encoded(self._unanswered())

    async def _prediction(self, call: Call, task: Task) -> Prediction:
        image = await _persistently(call, lambda: self._picture(call, task))
        asked = list(split_targets(self.typed)) if self.typed else self.interface.targets
        regions: list[Region] = []
        for start in range(0, len(asked), MAX_TARGETS):
            regions += await self._found(call, asked[start : start + MAX_TARGETS], image)
        return self._of(regions)

    async def _found(self, call: Call, targets: list[str], image: EncodedImage) -> list[Region]:
        """Returns the regions for one prompt's targets."""
        segmentation = await _persistently(call, lambda: self._ask(call, targets, image))
        return await call.in_encoder(lambda: self._regions(call, targets, segmentation))

    async def _picture(self, call: Call, task: Task) -> EncodedImage:
        try:
            return await self.pictures.fetch(call, task.data.get(self.interface.image_field), task.id)
        except ApiError:
            call.share.become(0)  # of the part that came
            raise

    async def _ask(self, call: Call, targets: list[str], image: EncodedImage) -> Segmentation:
        with call.services.admission.admitted():
            segmentation = await call.ask(Question(segment_prompt(targets)), image)
        check_complete(segmentation)
        return segmentation

    def _regions(self, call: Call, targets: list[str], segmentation: Segmentation) -> list[Region]:
        regions = []
        for found in segmentation.objects:
            for control in self.interface.controls:
                call.checkpoint()
                label = self._label(control, targets[found.target])
                if label is not None and found.score >= control.min_score:
                    regions += regions_of(found, label, control, segmentation)
        return regions

    def _label(self, control: Control, target: str) -> str | None:
        return control.label_named(target) if self.typed else control.label_of(target)

    def _of(self, regions: list[Region]) -> Prediction:
        score = fmean(region["score"] for region in regions) if regions else 0.0
        return {"result": regions, "score": round(score, SCORE_DECIMALS), "model_version": self.model_version}

    def _unanswered(self) -> Prediction:
        """Interactive requests have an editor that waits for a result."""
        return self._of([]) if self.typed else {"model_version": self.model_version}

    def _note_failure(self, task: Task, code: str, detail: str, cause: str | None) -> None:
        record = self.call.record
        record.sizes["failed_tasks"] += 1
        fields = {"request_id": record.request_id, "task": task.id, "code": code, "detail": detail, "cause": cause}
        _log.warning("a task of Label Studio has no prediction", extra={"fields": fields})


def most_at_once(settings: Settings) -> int:
    """Number of one request's tasks that run at the same time: at most half of the gateway's places."""
    return max(1, min(MAX_TASKS_AT_ONCE, settings.max_concurrent_requests // 2))


def _encoded(prediction: Prediction) -> bytes:
    return json.dumps(prediction).encode()


async def _persistently(call: Call, work: Callable[[], Awaitable[T]]) -> T:
    """Does the work; tries again while the service is loading or full, until the call's deadline."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await work()
        except ApiError as error:
            if error.code not in PASSING_CODES or pause_s >= call.deadline.remaining_s():
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
