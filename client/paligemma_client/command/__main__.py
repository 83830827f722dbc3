"""paligemma-segment: exit status 0 for success, 1 if pictures failed, 2 if nothing could be done."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from paligemma_client.command.datasets import write_datasets
from paligemma_client.command.errors import ServerGone, UsageError
from paligemma_client.command.jobs import Job, find_jobs
from paligemma_client.command.journal import Journal, record_of
from paligemma_client.command.options import Options, read_options
from paligemma_client.command.pictures_out import picture_writers
from paligemma_client.command.run import ask, check_server, connect, is_done, run
from paligemma_client.command.terminal import plan, summary, table, write_failures
from paligemma_client.errors import ClientError, ConnectionFailed
from paligemma_client.objects import Result
from paligemma_client.targets import check_finished

ALL_DONE: Final = 0
SOME_FAILED: Final = 1
NOTHING_DONE: Final = 2
INTERRUPTED: Final = 130  # as shells have it for Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = read_options(arguments)
    try:
        jobs = find_jobs(options)
        if options.writes:
            return _many(options, jobs)
        if options.dry_run:
            _say(plan(options, jobs, 0))
            return ALL_DONE
        if len(jobs) == 1:
            return asyncio.run(_one(options, jobs[0]))
        raise UsageError("say where the answers go: --coco, --jsonl, --yolo, --masks, --overlays or --cutouts")
    except (UsageError, ServerGone, OSError) as error:
        _complain(str(error))
        return NOTHING_DONE
    except KeyboardInterrupt:
        _complain("stopped; the same command goes on with the pictures that are left")
        return INTERRUPTED


def _many(options: Options, jobs: Sequence[Job]) -> int:
    assert options.journal is not None
    writers = picture_writers(options)
    if options.dry_run:
        _say(_plan_of(options, jobs))
        return ALL_DONE
    with Journal(options.journal, restart=options.restart) as journal:
        started = time.monotonic()
        outcome = asyncio.run(run(options, jobs, journal, writers))
        seconds = time.monotonic() - started
        write_datasets(options, jobs, journal)
    failures_file = Path(f"{options.journal}.failures.jsonl")
    write_failures(failures_file, outcome)
    _complain(summary(outcome, seconds, failures_file))
    return SOME_FAILED if outcome.failures else ALL_DONE


def _plan_of(options: Options, jobs: Sequence[Job]) -> str:
    """Returns what would be done; writes no files."""
    assert options.journal is not None
    if options.restart or not options.journal.exists():
        return plan(options, jobs, 0)
    with Journal(options.journal) as journal:
        writers = picture_writers(options)
        return plan(options, jobs, sum(is_done(job, journal, writers) for job in jobs))


async def _one(options: Options, job: Job) -> int:
    """One picture, and nothing asked to be written: a table and an overlay for a person, JSON for a program."""
    await check_server(options)
    async with connect(options) as client:
        try:
            result = await ask(client, job, options)
            check_finished(result.targets)
        except ConnectionFailed as error:
            raise ServerGone(str(error)) from error
        except ClientError as error:
            _complain(f"{job.source}: {error}")
            return SOME_FAILED
    if sys.stdout.isatty():
        _say(table(result))
        _say(f"drawn: {_draw(job, result)}")
    else:
        _say(json.dumps(record_of(job.key, job.source, job.name, result)))
    return ALL_DONE


def _draw(job: Job, result: Result) -> Path:
    overlay = Path(f"{Path(job.name).stem}_segmented.png")
    result.draw().save(overlay)
    return overlay


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _complain(text: str) -> None:
    """Writes to standard error, so that standard output has only the answer."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
