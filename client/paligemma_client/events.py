"""Server-sent events of `POST /segment/stream`, line by line.

event: accepted   data: {"request_id", "targets"}
event: object     data: {"target", "object"}
event: done       data: {"text", "targets", "timings_ms", ...}
event: error      data: the body of an error
"""

import json
from collections.abc import Iterator
from typing import Any

from paligemma_client.errors import KIND_OF_CODE, UNKNOWN_CODE, ConnectionFailed, ServerFailed
from paligemma_client.objects import FoundObject
from paligemma_client.rest import read_object
from paligemma_client.targets import Target, check_finished, read_targets


class ObjectReader:
    """Makes objects of the lines of a stream."""

    def __init__(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._targets: list[str] = []
        self._done = False
        self._ends: list[Target] = []

    def feed(self, line: str) -> Iterator[FoundObject]:
        """The object that a line completes, if any; raises ServerError for an event `error`."""
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if self._data:
                yield from self._dispatch(self._event, json.loads("\n".join(self._data)))
            self._event, self._data = "", []
        elif name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)

    def finish(self) -> None:
        """Says that there are no more lines.

        Raises:
            ConnectionFailed: the stream broke off.
            IncompleteAnswer: the server did not finish the answer to a target.
        """
        if not self._done:
            raise ConnectionFailed("the server went away before its answer was complete")
        check_finished(self._ends)

    def _dispatch(self, event: str, data: dict[str, Any]) -> Iterator[FoundObject]:
        match event:
            case "accepted":
                self._targets = [_text(target) for target in data["targets"]]
            case "object":
                yield read_object({**data["object"], "target": data["target"]}, self._targets)
            case "done":
                self._done = True
                self._ends = read_targets(data.get("targets", []))
            case "error":
                code = data.get("code", UNKNOWN_CODE)
                kind = KIND_OF_CODE.get(code, ServerFailed)
                raise kind(code, data.get("detail", ""), request_id=data.get("request_id"))


def _text(target: Any) -> str:
    return str(target["target"]) if isinstance(target, dict) else str(target)
