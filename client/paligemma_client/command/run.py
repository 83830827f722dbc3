"""Asks about all pictures, some at once, and writes what each answer asks for."""

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
    ServerError,
    UnsupportedCall,
)
from paligemma_client.objects import Result

FIRST_CALL_TIMEOUT_S: Final = 10.0  # no server at all is found out sooner than one that went away is given up


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture without an answer."""

    job: Job
    code: str
    message: str


@dataclass(slots=True)
class Outcome:
    """What a run did.

    Attributes:
        done: pictures that this run asked about.
        skipped: pictures that were done before.
        objects: on the pictures of this run.
        failures: pictures without an answer.
    """

    skipped: int = 0
    done: int = 0
    objects: int = 0
    failures: list[Failure] = field(default_factory=list)


def is_done(job: Job, journal: Journal, writers: Sequence[PictureWriter]) -> bool:
    """Whether the journal has a picture, and everything that is wanted of it is there."""
    if job.key not in journal:
        return False
    objects = objects_of(journal.read(job.key))
    return all(path.exists() for writer in writers for path in writer.files(job, objects))


async def run(options: Options, jobs: Sequence[Job], journal: Journal, writers: Sequence[PictureWriter]) -> Outcome:
    """Asks about what is not done yet.

    Raises:
        ServerGone: the server does not want us, or was away for longer than the timeout; what is done stays done.
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
    """A client as the command line describes it."""
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
    """Raises ServerGone where there is no server that can be asked."""
    async with connect(options, min(FIRST_CALL_TIMEOUT_S, options.timeout_s)) as client:
        try:
            await client.models()
        except UnsupportedCall:  # Triton itself: the first picture will show
            return
        except (ConnectionFailed, ServerError) as error:
            raise ServerGone(f"{error}\nIs the server running? Another one is given with --server.") from error


async def ask(client: AsyncClient, job: Job, options: Options) -> Result:
    """The answer about one picture."""
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
    """What the workers of a run share."""

    options: Options
    client: AsyncClient
    journal: Journal
    writers: Sequence[PictureWriter]
    outcome: Outcome
    progress: "tqdm[None]"

    async def do(self, jobs: Sequence[Job]) -> None:
        """All of them, as many at once as is wanted."""
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
            except ClientError as error:
                self._failed(job, "invalid_picture", error)
            self.progress.update()

    async def _one(self, job: Job) -> None:
        result = await ask(self.client, job, self.options)
        await asyncio.to_thread(self._keep, job, result)
        self.outcome.done += 1
        self.outcome.objects += len(result.objects)

    def _keep(self, job: Job, result: Result) -> None:
        """Files first: what the journal has is complete."""
        for writer in self.writers:
            writer.write(job, result)
        self.journal.append(record_of(job.key, job.source, job.name, result))

    def _failed(self, job: Job, code: str, error: Exception) -> None:
        self.outcome.failures.append(Failure(job, code, str(error)))


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of the errors that several workers met."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
