"""Names of checkpoints."""

import re
from dataclasses import dataclass
from typing import Final, Self

from paligemma_engine.errors import ModelNotAllowed

_MAIN: Final = "main"  # the branch of a hub id without a revision

# One name, or an organization's and a name, each without a leading dot; a branch, tag or commit may follow.
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_FORM: Final = re.compile(rf"(?P<name>{_PART}(?:/{_PART})?)(?:@(?P<revision>{_PART}))?")


@dataclass(frozen=True, slots=True)
class ModelId:
    """A hub id, or the name of a folder under the models folder.

    Attributes:
        name: `org/name` or `name`.
        revision: a branch, tag or commit of the hub's repository; None for its main branch.
    """

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `org/name`, `org/name@revision` or `name`; `org/name@main` is `org/name`.

        Raises:
            ModelNotAllowed: any other form, for example a path that leaves the folder.
        """
        found = _FORM.fullmatch(text)
        if found is None or ".." in text:
            raise ModelNotAllowed(
                "model_id must be a hub id, such as org/name or org/name@revision, or a folder's name"
            )
        return cls(found["name"], None if found["revision"] == _MAIN else found["revision"])

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def canonical(model_id: str) -> str:
    """Returns the canonical name: `org/name` for `org/name@main`. A name that is not an id is unchanged."""
    try:
        return str(ModelId.parse(model_id))
    except ModelNotAllowed:
        return model_id
