"""Formats what the command prints."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from paligemma_client.command.atomic import written_whole
from paligemma_client.command.jobs import Job
from paligemma_client.command.options import Options
from paligemma_client.command.run import Outcome
from paligemma_client.objects import Result

_EXAMPLES: Final = 5  # failures that are printed; all are in the file


def table(result: Result) -> str:
    """The objects of one picture."""
    if not result.objects:
        return "nothing found"
    head = ("object", "score", "mask score", "box x_min, y_min, x_max, y_max", "pixels")
    rows = [
        (
            found.category,
            f"{found.score:.2f}",
            "-" if found.mask_score is None else f"{found.mask_score:.2f}",
            ", ".join(str(side) for side in found.box_xyxy),
            str(found.area_px),
        )
        for found in result.objects
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )


def plan(options: Options, jobs: Sequence[Job], done: int) -> str:
    """Returns the text of a dry run."""
    prompts = Counter(prompt for job in jobs for prompt in job.prompts)
    lines = [
        f"{len(jobs)} pictures, {done} of them done; {len(jobs) - done} to ask about, {options.concurrency} at once"
    ]
    lines += [f"  {prompt!r} about {number}" for prompt, number in prompts.items()]
    lines.append(f"server: {options.server} ({options.transport})")
    written = ("coco", "jsonl", "yolo", "masks", "overlays", "cutouts", "journal")
    lines += [f"{name}: {getattr(options, name)}" for name in written if getattr(options, name) is not None]
    return "\n".join(lines)


def summary(outcome: Outcome, seconds: float, failures_file: Path | None) -> str:
    """The end of a run."""
    rate = f", {outcome.done / seconds:.1f} a second" if outcome.done else ""
    lines = [f"{outcome.done} pictures done in {seconds:.1f} s{rate}; {outcome.objects} objects"]
    if outcome.skipped:
        lines[0] += f"; {outcome.skipped} were done before"
    if outcome.failures:
        codes = Counter(failure.code for failure in outcome.failures)
        kinds = ", ".join(f"{number} {code}" for code, number in codes.most_common())
        lines.append(f"{len(outcome.failures)} failed ({kinds}); the same command tries them again")
        lines += [f"  {failure.job.source}: {failure.message}" for failure in outcome.failures[:_EXAMPLES]]
        if failures_file is not None:
            lines.append(f"all of them: {failures_file}")
    return "\n".join(lines)


def write_failures(path: Path, outcome: Outcome) -> None:
    """A line of JSON for each picture without an answer; no file where there is none."""
    if not outcome.failures:
        path.unlink(missing_ok=True)
        return
    with written_whole(path) as file:
        for failure in outcome.failures:
            line: dict[str, Any] = {"source": failure.job.source, "prompts": failure.job.prompts}
            file.write(json.dumps({**line, "code": failure.code, "message": failure.message}).encode() + b"\n")
