"""How the answer to each target of a prompt ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from paligemma_client.errors import IncompleteAnswer

COMPLETE: Final = "eos"
FAILED: Final = frozenset({"deadline", "cancelled", "error"})  # sending the request again may help


@dataclass(frozen=True, slots=True)
class Target:
    """One target of a prompt.

    Attributes:
        name: as in the prompt, without the task.
        finish_reason: eos if the answer is complete. Else objects may be missing: length and repeat (the model's answer
            was cut off), deadline, cancelled and error (the server did not finish it).
    """

    name: str
    finish_reason: str

    @property
    def is_complete(self) -> bool:
        """Whether the model ended its answer itself."""
        return self.finish_reason == COMPLETE

    @property
    def has_failed(self) -> bool:
        """Whether the server did not finish the answer."""
        return self.finish_reason in FAILED


def read_targets(entries: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Reads `targets` of an answer over REST."""
    return [Target(entry["target"], entry["finish_reason"]) for entry in entries]


def worst(ends: Sequence[Target]) -> Target:
    """Returns the end of a target that several requests asked for: a failure, if there is one."""
    return max(ends, key=lambda end: (end.has_failed, not end.is_complete))


def check_finished(targets: Sequence[Target]) -> None:
    """Raises IncompleteAnswer if the server did not finish the answer to a target."""
    failed = {target.name: target.finish_reason for target in targets if target.has_failed}
    if failed:
        raise IncompleteAnswer(failed)
