"""Sends all pictures, several at the same time, and writes the results of each answer."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tqdm import tqdm

from paligemma_client.client import AsyncClient
from paligemma_client.command.errors import ServerGone, UsageError
from paligemma_client.command.jobs import Job
from paligemma_client.command.journal import Journal, objects_of, record_of
from paligemma_client.command.options import Options
from paligemma_client.command.pictures_out import PictureWriter
from paligemma_client.errors import (
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    FetchFailed,
    IncompleteAnswer,
    ServerError,
    UnsupportedCall,
)
from paligemma_client.objects import Result
from paligemma_client.targets import check_finished

FIRST_CALL_TIMEOUT_S: Final = 10.0  # shorter than timeout_s, so that a wrong address is reported soon


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that failed."""

    job: Job
    code: str
    message: str


@dataclass(slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        done: pictures that were answered in this run.
        skipped: pictures that an earlier run had finished.
        objects: objects on the pictures of this run.
        failures: pictures that failed.
    """

    skipped: int = 0
    done: int = 0
    objects: int = 0
    failures: list[Failure] = field(default_factory=list)


def is_done(job: Job, journal: Journal, writers: Sequence[PictureWriter]) -> bool:
    """Whether the journal has a picture, and all its files exist."""
    if job.key not in journal:
        return False
    objects = objects_of(journal.read(job.key))
    return all(path.exists() for writer in writers for path in writer.files(job, objects))


async def run(options: Options, jobs: Sequence[Job], journal: Journal, writers: Sequence[PictureWriter]) -> Outcome:
    """Sends the pictures that are not finished yet.

    Raises:
        ServerGone: the server refuses the key, or was not reachable for longer than the timeout. Finished pictures stay
            in the journal.
    """
    open_jobs = [job for job in jobs if not is_done(job, journal, writers)]
    outcome = Outcome(skipped=len(jobs) - len(open_jobs))
    if not open_jobs:
        return outcome
    await check_server(options)
    progress = tqdm(total=len(jobs), initial=outcome.skipped, unit="picture", disable=None, smoothing=0.1)
    with contextlib.closing(progress):
        async with connect(options) as client:
            work = _Work(options, client, journal, writers, outcome, progress)
            await work.do(open_jobs)
    return outcome


def connect(options: Options, timeout_s: float | None = None) -> AsyncClient:
    """Makes a client for the command line's options."""
    try:
        return AsyncClient(
            options.server,
            transport=options.transport,
            api_key=options.api_key,
            timeout_s=options.timeout_s if timeout_s is None else timeout_s,
        )
    except (ClientError, ValueError) as error:
        raise UsageError(str(error)) from error


async def check_server(options: Options) -> None:
    """Raises ServerGone if no server answers."""
    async with connect(options, min(FIRST_CALL_TIMEOUT_S, options.timeout_s)) as client:
        try:
            await client.models()
        except UnsupportedCall:  # Triton itself; the first picture shows whether it answers
            return
        except (ConnectionFailed, ServerError) as error:
            raise ServerGone(f"{error}\nIs the server running? Another one is given with --server.") from error


async def ask(client: AsyncClient, job: Job, options: Options) -> Result:
    """Sends one picture; returns the answer."""
    return await client.segment(
        job.source,
        job.prompts,
        min_score=options.min_score,
        model_id=options.model_id,
        max_new_tokens=options.max_new_tokens,
        tiles=options.tiles,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """The state that the workers of a run share."""

    options: Options
    client: AsyncClient
    journal: Journal
    writers: Sequence[PictureWriter]
    outcome: Outcome
    progress: "tqdm[None]"

    async def do(self, jobs: Sequence[Job]) -> None:
        """Sends all pictures, `concurrency` at the same time."""
        waiting = iter(jobs)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.options.concurrency, len(jobs))):
                    group.create_task(self._worker(waiting))
        except* (ServerGone, OSError) as errors:
            raise _first(errors) from None

    async def _worker(self, waiting: Iterator[Job]) -> None:
        for job in waiting:
            try:
                await self._one(job)
            except (FetchFailed, DeadlineExceeded) as error:
                self._failed(job, "timeout", error)
            except ConnectionFailed as error:
                message = f"{error}\nThe same command goes on with the pictures that are left."
                raise ServerGone(message) from error
            except ServerError as error:
                if error.code == "unauthorized":
                    raise ServerGone(f"{error}\nGive the key with --api-key-file.") from error
                self._failed(job, error.code, error)
            except IncompleteAnswer as error:
                self._failed(job, "incomplete", error)
            except ClientError as error:
                self._failed(job, "invalid_picture", error)
            self.progress.update()

    async def _one(self, job: Job) -> None:
        result = await ask(self.client, job, self.options)
        check_finished(result.targets)
        await asyncio.to_thread(self._keep, job, result)
        self.outcome.done += 1
        self.outcome.objects += len(result.objects)

    def _keep(self, job: Job, result: Result) -> None:
        """Writes the files before the journal, so that every picture in the journal is complete."""
        for writer in self.writers:
            writer.write(job, result)
        self.journal.append(record_of(job.key, job.source, job.name, result))

    def _failed(self, job: Job, code: str, error: Exception) -> None:
        self.outcome.failures.append(Failure(job, code, str(error)))


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first of several workers' errors."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
