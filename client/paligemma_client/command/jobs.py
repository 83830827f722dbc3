"""Finds the pictures of a command line and their prompts."""

import csv
import glob
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from paligemma_client.command.errors import UsageError
from paligemma_client.command.options import Options
from paligemma_client.pictures import is_web_address

PICTURE_SUFFIXES: Final = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
)
LIST_SUFFIXES: Final = frozenset((".txt", ".csv", ".jsonl"))
_PICTURE_FIELDS: Final = ("picture", "image", "file_name")


@dataclass(frozen=True, slots=True)
class Job:
    """One picture.

    Attributes:
        key: identifies the picture and the question; differs when either has changed.
        source: a path or an address.
        name: the picture's unique name in the output: relative, with its suffix.
        base: the unique name of its output files; without the suffix if that is unique.
        prompts: its prompts.
    """

    key: str
    source: str
    name: str
    base: str
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Listed:
    """A picture from an argument or a list; without a prompt it gets all prompts of the command line."""

    source: str
    name: str
    prompt: str | None = None


def find_jobs(options: Options) -> list[Job]:
    """Returns one job for each picture, in the order given; a picture that is named twice gets all its prompts."""
    outputs = [folder.resolve() for folder in options.folders]
    prompts: dict[str, dict[str, None]] = {}
    names: dict[str, str] = {}
    for argument in options.pictures:
        for listed in _expand(argument, outputs):
            asked = options.prompts if listed.prompt is None else [listed.prompt]
            if not asked:
                raise UsageError(f"nothing is asked about {listed.source}: give --prompt")
            prompts.setdefault(listed.source, {}).update(dict.fromkeys(asked))
            names.setdefault(listed.source, listed.name)
    if not prompts:
        raise UsageError(f"no pictures in {', '.join(options.pictures)} (beside those that this command writes there)")
    names = _distinct(names)
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names.values())
    return [_job(source, names[source], tuple(asked), stems, options) for source, asked in prompts.items()]


def _job(source: str, name: str, prompts: tuple[str, ...], stems: Counter[str], options: Options) -> Job:
    state: list[Any] = []
    if not is_web_address(source):
        try:
            status = Path(source).stat()
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error}") from error
        state = [status.st_size, status.st_mtime_ns]
    asked = [options.min_score, options.model_id, options.max_new_tokens, options.tiles]
    identity = json.dumps([source, state, prompts, asked])
    stem = str(PurePosixPath(name).with_suffix(""))
    key = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:32]
    return Job(key, source, name, stem if stems[stem] == 1 else name, prompts)


def _expand(argument: str, outputs: Sequence[Path]) -> Iterator[_Listed]:
    if is_web_address(argument):
        yield _listed(argument)
        return
    path = Path(argument)
    if path.is_dir():
        yield from _in_folder(path, outputs)
    elif path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        yield from _in_list(path)
    elif path.is_file():
        yield _listed(argument)
    else:
        found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 (a pattern may be absolute)
        if not found:
            raise UsageError(f"{argument} is no file, folder or pattern that matches anything")
        yield from (_listed(file) for file in found if Path(file).is_file())


def _listed(source: str, prompt: str | None = None) -> _Listed:
    name = PurePosixPath(unquote(urlsplit(source).path)).name if is_web_address(source) else Path(source).name
    return _Listed(source, name or "picture", prompt)


def _in_folder(folder: Path, outputs: Sequence[Path]) -> Iterator[_Listed]:
    """Yields all pictures below a folder, except hidden ones and this command's own output."""
    whole = folder.resolve()  # only the folder: the output contains links to pictures
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        ours = any(output in (whole / relative).parents for output in outputs)
        if file.suffix.lower() in PICTURE_SUFFIXES and not hidden and not ours and file.is_file():
            yield _Listed(str(file), relative.as_posix())


def _in_list(file: Path) -> Iterator[_Listed]:
    """Yields the entries of a list; relative paths start from the list's folder."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for picture, prompt in _entries(file, lines):
                source = picture if is_web_address(picture) else str(file.parent / picture)
                yield _listed(source, prompt)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error


def _entries(file: Path, lines: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    if file.suffix.lower() == ".txt":
        yield from ((line.strip(), None) for line in lines if line.strip())
        return
    if file.suffix.lower() == ".csv":
        rows: Iterable[dict[str, Any]] = csv.DictReader(lines)
    else:
        rows = (json.loads(line) for line in lines if line.strip())
    for number, row in enumerate(rows, start=1):
        picture = next((row[field] for field in _PICTURE_FIELDS if row.get(field)), None)
        if not isinstance(picture, str):
            raise ValueError(f"entry {number} has no field `picture`")
        yield picture.strip(), str(row.get("prompt") or "").strip() or None


def _distinct(names: dict[str, str]) -> dict[str, str]:
    """Returns unique names by source: equal names get the whole path or address, then a number."""
    counts = Counter(names.values())
    whole = {
        source: name if counts[name] == 1 else source.split("://")[-1].replace("..", "").strip("/")
        for source, name in names.items()
    }
    seen: Counter[str] = Counter()
    distinct = {}
    for source, name in whole.items():
        seen[name] += 1
        path = PurePosixPath(name)
        distinct[source] = name if seen[name] == 1 else str(path.with_name(f"{path.stem}-{seen[name]}{path.suffix}"))
    return distinct
