"""Reads a project's labelling interface, which is XML."""

import math
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from gateway.errors import ApiError
from gateway.inputs.prompts import DEFAULT_TASK, TARGET_SEPARATOR

MAX_INTERFACE_CHARACTERS: Final = 1_000_000
KINDS: Final = ("rectanglelabels", "polygonlabels", "brushlabels", "bitmasklabels")


@dataclass(frozen=True, slots=True)
class Label:
    """A label that regions can have.

    Attributes:
        name: its name in regions: the alias, else the value.
        targets: the prompts that find it.
    """

    name: str
    targets: tuple[str, ...]


@dataclass(slots=True)
class Control:
    """A tag for regions on the image.

    Attributes:
        name: of the tag.
        kind: its type of region; one of KINDS.
        image: name of its image tag.
        min_score: regions with a lower box score are left out.
        labels: in the order of the interface.
    """

    name: str
    kind: str
    image: str
    min_score: float
    labels: list[Label] = field(default_factory=list)

    def label_of(self, target: str) -> str | None:
        """Returns the label of a target; None if there is none."""
        return next((label.name for label in self.labels if target in label.targets), None)

    def label_named(self, words: str) -> str:
        """Returns the label for a user's words: the one with that name or target, else the first."""
        wanted = words.casefold()
        known = (label.name for label in self.labels if wanted in map(str.casefold, (label.name, *label.targets)))
        return next(known, self.labels[0].name)


@dataclass(frozen=True, slots=True)
class Interface:
    """A labelling interface.

    Attributes:
        image_name: name of the image's tag.
        image_field: key of the image in a task's data.
        controls: those that are for this image and have labels; at least one.
    """

    image_name: str
    image_field: str
    controls: list[Control]

    @property
    def targets(self) -> list[str]:
        """Returns the distinct targets of all labels."""
        asked = (target for control in self.controls for label in control.labels for target in label.targets)
        return list(dict.fromkeys(asked))


def read_interface(xml: str) -> Interface:
    """Reads an interface; raises ApiError if it cannot be read, or has nothing that can be predicted."""
    if len(xml) > MAX_INTERFACE_CHARACTERS:
        raise _unusable(f"has more than {MAX_INTERFACE_CHARACTERS} characters")
    reader = _Reader()
    reader.read(xml)
    controls = [control for control in reader.controls if control.labels]
    if not controls:
        raise _unusable("has none of RectangleLabels, PolygonLabels, BrushLabels and BitmaskLabels with a Label in it")
    image = controls[0].image
    value = reader.images.get(image, "")
    if not value.startswith("$"):
        raise _unusable('has no Image with that name and a value such as "$image" for its labels')
    return Interface(image, value[1:], [control for control in controls if control.image == image])


def split_targets(words: str) -> tuple[str, ...]:
    """Returns the targets in a user's words, which may start with the task word; several are separated by `;`."""
    task, _, rest = words.strip().partition(" ")
    asked = (rest if task.lower() == DEFAULT_TASK and rest else words).split(TARGET_SEPARATOR)
    return tuple(dict.fromkeys(" ".join(target.split()) for target in asked if target.strip()))


class _Reader:
    """Collects images and controls from the XML. Refuses a DOCTYPE, whose entities could grow without limit."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}
        self.controls: list[Control] = []
        self._open: list[Control | None] = []  # for each open tag, the control that it is or is in

    def read(self, xml: str) -> None:
        parser = expat.ParserCreate("utf-8")
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = lambda _tag: self._open.pop()
        try:
            parser.Parse(xml.encode(errors="replace"), True)
        except expat.ExpatError as error:
            raise _unusable(f"is not XML: {expat.ErrorString(error.code)} in line {error.lineno}") from error

    def _refuse_doctype(self, *_declared: object) -> None:
        raise _unusable("has a DOCTYPE, which is not read; remove it")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        given = {name.lower(): value for name, value in attributes.items()}
        kind = tag.lower()
        control = self._open[-1] if self._open else None
        if kind in KINDS:
            score = _read_score(given.get("model_score_threshold", "0"))
            control = Control(given.get("name", ""), kind, given.get("toname", ""), score)
            self.controls.append(control)
        elif kind == "image":
            self.images[given.get("name", "")] = given.get("value", "")
        elif kind == "label" and control is not None:
            value = given.get("value", "")
            targets = split_targets(given.get("prompt") or value)
            if targets:
                control.labels.append(Label(given.get("alias") or value, targets))
        self._open.append(control)


def _read_score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise _unusable("has a model_score_threshold that is no number; write one such as 0.3")
    return score


def _unusable(fault: str) -> ApiError:
    error = ApiError("invalid_request", f"the labelling interface {fault}")
    error.notes = {"interface": fault}
    return error
