"""Plans a request: its sequences and their inputs."""

import time
from typing import Final

from paligemma_engine.answers.repeats import RepeatDetector
from paligemma_engine.answers.vocabulary import Task
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.checkpoints.model_id import canonical
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import InvalidArgument, ModelNotAllowed
from paligemma_engine.preparation.decoding import ImageLimits, configure_pillow, decode_image
from paligemma_engine.preparation.pixels import ImagePreparer
from paligemma_engine.preparation.prepared_images import PreparedImages
from paligemma_engine.preparation.prompt_tokens import tokenize_prompt
from paligemma_engine.preparation.prompts import split_prompt
from paligemma_engine.requests.prepared import PreparedImage, PreparedPrompt, TargetPrompt
from paligemma_engine.requests.request import Request
from paligemma_engine.requests.sequence import Sequence
from paligemma_engine.requests.ticket import Ticket, cancelled_error, deadline_error

MAX_KEPT_BYTES: Final = 32_000_000  # of prepared pictures: 200 at 224 px, 50 at 448


class Planner:
    """Checks requests and prepares their sequences. Thread-safe."""

    def __init__(self, config: EngineConfig, checkpoint: Checkpoint) -> None:
        self._config = config
        self._checkpoint = checkpoint
        self._limits = ImageLimits(max_bytes=config.max_image_bytes, max_pixels=config.max_image_pixels)
        configure_pillow(self._limits)
        self._prepare_image = ImagePreparer(checkpoint.processor.image_processor)
        self._images = PreparedImages(self._prepare, max_bytes=min(MAX_KEPT_BYTES, config.feature_cache_bytes))

    def plan(self, ticket: Ticket) -> None:
        """Fills in a ticket's image and sequences; cheap checks come first.

        Raises:
            EngineError: the request is refused.
        """
        if ticket.cancelled:
            raise cancelled_error()
        if time.monotonic() >= ticket.deadline:
            raise deadline_error()
        self._check_model(ticket.request)
        max_new_tokens = self._max_new_tokens(ticket.request)
        asked = split_prompt(ticket.request.prompt)
        input_ids = [tokenize_prompt(self._checkpoint, prompt) for prompt in asked]
        ticket.image = self._images.of(ticket.request.image)
        ticket.drop_file()
        ticket.sequences = [
            Sequence(
                prompt=PreparedPrompt(ticket.image, ids, prompt),
                max_new_tokens=max_new_tokens,
                deadline=ticket.deadline,
                repeats=self._repeat_detector(prompt),
            )
            for ids, prompt in zip(input_ids, asked, strict=True)
        ]
        if ticket.cancelled:  # cancelled since the check above, before there were sequences to mark
            ticket.cancel()

    def _prepare(self, encoded: bytes) -> PreparedImage:
        return self._prepare_image(decode_image(encoded, self._limits))

    def _check_model(self, request: Request) -> None:
        if request.model_id and canonical(request.model_id) != canonical(self._config.model_id):
            raise ModelNotAllowed(f"this server serves {self._config.model_id} only; leave model_id out")

    def _max_new_tokens(self, request: Request) -> int:
        limit = self._config.max_new_tokens
        if request.max_new_tokens is None:
            return limit
        if not 1 <= request.max_new_tokens <= limit:
            raise InvalidArgument(f"max_new_tokens must be between 1 and {limit}")
        return request.max_new_tokens

    def _repeat_detector(self, asked: TargetPrompt) -> RepeatDetector | None:
        if not self._config.grammar or asked.task is Task.OTHER:
            return None
        return RepeatDetector(self._checkpoint.vocabulary, asked.task)
