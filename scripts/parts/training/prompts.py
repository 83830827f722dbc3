"""What one may ask about a scene, and which of its objects are meant."""

import random
from dataclasses import dataclass
from typing import Final

from paligemma_tokens.vocabulary import SEPARATOR
from parts.training.lots import happens
from parts.training.names import COLOUR_SYNONYMS, COLOURS, KINDS, KINDS_BY_NAME, Kind
from parts.training.scenes import Placement

MAX_TARGETS: Final = 3  # objects of one answer
_CLEARLY_FURTHER: Final = 0.08  # of the picture's side
_CLEARLY_LARGER: Final = 1.4  # in area
_STRANGE_SHARE: Final = 0.08  # of the absent objects: words that the model does not know
_PLURAL_SHARE: Final = 0.1
_SYNONYM_SHARE: Final = 0.2
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Found:
    """An object as prompts see it: what it is, its box in [0, 1] (x_min, y_min, x_max, y_max), its visible area."""

    placement: Placement
    box: tuple[float, float, float, float]
    area: float

    @property
    def kind(self) -> Kind:
        """What it is."""
        return KINDS_BY_NAME[self.placement.name]


@dataclass(frozen=True, slots=True)
class Query:
    """Words for objects, and the objects' positions in the scene in the order of the answer; none where absent."""

    words: str
    targets: tuple[int, ...]
    form: str  # name, colour, position, size, plural, several, absent


def queries(chance: random.Random, scene: list[Found]) -> dict[str, list[Query]]:
    """What can be asked about a scene without doubt about the answer, by form."""
    by_form: dict[str, list[Query]] = {
        form: [] for form in ("name", "colour", "position", "size", "plural", "several", "absent")
    }
    groups: dict[str, list[int]] = {}
    for index, found in enumerate(scene):
        groups.setdefault(found.placement.name, []).append(index)
    for name, members in groups.items():
        kind = KINDS_BY_NAME[name]
        if len(members) == 1:
            by_form["name"].append(Query(_word(chance, kind), (members[0],), "name"))
        else:
            _ask_apart(chance, by_form, scene, kind, members)
        if kind.plural and len(members) <= MAX_TARGETS:
            by_form["plural"].append(Query(kind.plural, _ordered(scene, members), "plural"))
        for index in members:
            colour = scene[index].placement.colour
            if colour and sum(scene[other].placement.colour == colour for other in members) == 1:
                by_form["colour"].append(
                    Query(f"{_colour_word(chance, colour)} {_word(chance, kind)}", (index,), "colour")
                )
    single = by_form["name"] + by_form["colour"]
    if len({query.targets for query in single}) > 1:
        first, second = chance.sample(single, 2)
        if first.targets != second.targets:
            both = SEPARATOR.join([first.words, second.words])
            by_form["several"].append(Query(both, first.targets + second.targets, "several"))
    by_form["absent"] = [_absent(chance, scene), _nearly_there(chance, scene)]
    return by_form


def _ask_apart(
    chance: random.Random, by_form: dict[str, list[Query]], scene: list[Found], kind: Kind, members: list[int]
) -> None:
    """Asks for one of several objects of a kind by where it lies or how large it is."""
    word = _word(chance, kind)
    for axis, (low, high) in enumerate((("left", "right"), ("top", "bottom"))):
        centres = sorted((scene[index].box[axis] + scene[index].box[axis + 2], index) for index in members)
        if centres[1][0] - centres[0][0] > 2 * _CLEARLY_FURTHER:
            by_form["position"].append(Query(f"{low} {word}", (centres[0][1],), "position"))
        if centres[-1][0] - centres[-2][0] > 2 * _CLEARLY_FURTHER:
            by_form["position"].append(Query(f"{high} {word}", (centres[-1][1],), "position"))
    areas = sorted((scene[index].area, index) for index in members)
    if areas[1][0] > _CLEARLY_LARGER * areas[0][0]:
        by_form["size"].append(Query(f"smallest {word}", (areas[0][1],), "size"))
    if areas[-1][0] > _CLEARLY_LARGER * areas[-2][0]:
        by_form["size"].append(Query(f"largest {word}", (areas[-1][1],), "size"))


def _absent(chance: random.Random, scene: list[Found]) -> Query:
    """A kind that is not there, or a word that means nothing."""
    if happens(chance, _STRANGE_SHARE):
        return Query("".join(chance.choices(_LETTERS, k=chance.randint(3, 9))), (), "absent")
    there = {found.placement.name for found in scene}
    kind = chance.choice([kind for kind in KINDS if kind.name not in there])
    if kind.plural and happens(chance, _PLURAL_SHARE):
        return Query(kind.plural, (), "absent")
    colour = f"{_colour_word(chance, chance.choice(list(COLOURS)))} " if happens(chance, 0.5) else ""
    return Query(f"{colour}{_word(chance, kind)}", (), "absent")


def _nearly_there(chance: random.Random, scene: list[Found]) -> Query:
    """A kind that is there in a colour in which it is not, or a colour that is there on a kind that is not."""
    found = chance.choice(scene)
    colours = [other.placement.colour for other in scene if other.placement.colour]
    if found.placement.colour and happens(chance, 0.5):
        taken = {other.placement.colour for other in scene if other.placement.name == found.placement.name}
        pool = [colour for colour in (colours if happens(chance, 0.5) else COLOURS) if colour not in taken]
        if pool:
            return Query(f"{_colour_word(chance, chance.choice(pool))} {_word(chance, found.kind)}", (), "absent")
    if not colours:
        return _absent(chance, scene)
    there = {other.placement.name for other in scene}
    kind = chance.choice([kind for kind in KINDS if kind.name not in there])
    return Query(f"{_colour_word(chance, chance.choice(colours))} {_word(chance, kind)}", (), "absent")


def _ordered(scene: list[Found], members: list[int]) -> tuple[int, ...]:
    """From left to right."""
    return tuple(sorted(members, key=lambda index: scene[index].box[0]))


def _word(chance: random.Random, kind: Kind) -> str:
    return chance.choice(kind.synonyms) if kind.synonyms and happens(chance, _SYNONYM_SHARE) else kind.name


def _colour_word(chance: random.Random, colour: str) -> str:
    synonyms = COLOUR_SYNONYMS.get(colour, ())
    return chance.choice(synonyms) if synonyms and happens(chance, _SYNONYM_SHARE) else colour
