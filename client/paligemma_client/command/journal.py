"""The journal of finished pictures: one line of JSON for each, on disk before the next picture is sent."""

import json
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paligemma_client.command.errors import UsageError
from paligemma_client.objects import FoundObject, Result

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]


def record_of(key: str, source: str, name: str, result: Result) -> Record:
    """Returns a result as a record of the journal."""
    return {
        "key": key,
        "file_name": name,
        "source": source,
        "width": result.width,
        "height": result.height,
        "text": result.text,
        "model_id": result.model_id,
        "request_id": result.request_id,
        "objects": [
            {
                "label": found.label,
                "target": found.target,
                "score": found.score,
                "mask_score": found.mask_score,
                "box_xyxy": found.box_xyxy,
                "rle": found.run_lengths,
            }
            for found in result.objects
        ],
    }


def objects_of(record: Record) -> list[FoundObject]:
    """Returns the objects of a record."""
    return [
        FoundObject(
            label=entry["label"],
            target=entry["target"],
            score=entry["score"],
            mask_score=entry["mask_score"],
            box_xyxy=tuple(entry["box_xyxy"]),
            run_lengths=entry["rle"],
        )
        for entry in record["objects"]
    ]


class Journal:
    """The journal's file, for one process at a time. Records stay on disk; memory holds their offsets.

    An incomplete last line, from a process that was stopped while it wrote, is removed.
    """

    def __init__(self, path: Path, *, restart: bool = False) -> None:
        self._path, self._restart = path, restart
        self._lock = threading.Lock()
        self._offsets: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
        except OSError as error:
            raise UsageError(f"the journal {self._path} cannot be written: {error}") from error
        self._claim()
        if self._restart:
            self._file.truncate(0)
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def append(self, record: Record) -> None:
        """Adds a picture; its record is on disk when this returns."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._offsets[record["key"]] = offset

    def read(self, key: str) -> Record:
        """Returns the newest record of a picture."""
        with self._lock:
            self._file.seek(self._offsets[key])
            record: Record = json.loads(self._file.readline())
        return record

    def _claim(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            message = f"another run writes to {self._path}: wait for it, or give another --journal"
            raise UsageError(message) from error

    def _read(self) -> None:
        self._file.seek(0)
        offset = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                self._offsets[json.loads(line)["key"]] = offset
            except (ValueError, KeyError, TypeError) as error:
                message = f"{self._path} is no journal of this command: give another --journal, or --restart"
                raise UsageError(message) from error
            offset += len(line)
        self._file.truncate(offset)
