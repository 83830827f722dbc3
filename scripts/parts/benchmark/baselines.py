"""The baseline: transformers' `generate` in a separate process, one request at a time or in batches."""

import io
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from parts.benchmark.workload import Job


class Baseline:
    """A process that keeps a checkpoint loaded and answers jobs with `generate`; a context."""

    def __init__(self, checkpoint: Path, *, threads: int | None = None) -> None:
        """`threads`: PyTorch's threads; None for PyTorch's default, as in the reference service."""
        self._arguments = (str(checkpoint), threads)

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        self._connection.recv()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._connection.send(None)
        self._process.join(10)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def answer(self, jobs: Sequence[Job]) -> tuple[float, float]:
        """Answers jobs in one left-padded batch; returns the seconds to the first token and to the end."""
        self._connection.send(jobs)
        first_token_s, total_s = self._connection.recv()
        return first_token_s, total_s


def _work(connection: multiprocessing.connection.Connection, checkpoint: str, threads: int | None) -> None:
    import torch  # noqa: PLC0415  # in the child only
    from transformers import AutoProcessor, PaliGemmaForConditionalGeneration  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if threads is not None:
        torch.set_num_threads(threads)
    model: Any = PaliGemmaForConditionalGeneration.from_pretrained(checkpoint).eval()
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    connection.send("ready")
    while (jobs := connection.recv()) is not None:
        connection.send(_generate(model, processor, jobs))


def _generate(model: Any, processor: Any, jobs: Sequence[Job]) -> tuple[float, float]:
    import torch  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    started = time.perf_counter()
    first_token_at: list[float] = []

    def note_first_token(_input_ids: Any, scores: Any) -> Any:
        # Called before each token is chosen: the first call marks the end of the prefill.
        if not first_token_at:
            first_token_at.append(time.perf_counter())
        return scores

    images = [Image.open(io.BytesIO(job.image)).convert("RGB") for job in jobs]
    texts = [f"<image>{job.prompt}" for job in jobs]
    inputs = processor(images=images, text=texts, return_tensors="pt", padding=True)
    inputs.pop("labels", None)
    longest = max(job.max_new_tokens_in_all for job in jobs)
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=longest, logits_processor=[note_first_token])
    processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return first_token_at[0] - started, time.perf_counter() - started
