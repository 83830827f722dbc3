"""Makes prompts about a scene, with the objects that answer them."""

import random
from dataclasses import dataclass
from typing import Final

from paligemma_tokens.vocabulary import SEPARATOR
from parts.training.lots import happens
from parts.training.names import COLOUR_SYNONYMS, COLOURS, KINDS, KINDS_BY_NAME, Kind
from parts.training.scenes import Placement

MAX_TARGETS: Final = 3  # most objects of one answer
_CLEARLY_FURTHER: Final = 0.08  # of the picture's side
_CLEARLY_LARGER: Final = 1.4  # in area
_STRANGE_SHARE: Final = 0.08  # share of the absent targets whose words the model does not know
_PLURAL_SHARE: Final = 0.1
_SYNONYM_SHARE: Final = 0.2
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Found:
    """An object for prompts: its kind, its box x_min, y_min, x_max, y_max in [0, 1], its visible area."""

    placement: Placement
    box: tuple[float, float, float, float]
    area: float

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return KINDS_BY_NAME[self.placement.name]


@dataclass(frozen=True, slots=True)
class Query:
    """Words, and the indices of the meant objects in the answer's order; none if the target is absent."""

    words: str
    targets: tuple[int, ...]
    form: str  # name, colour, position, size, plural, several, absent


def queries(chance: random.Random, scene: list[Found]) -> dict[str, list[Query]]:
    """Unambiguous questions about a scene, by form."""
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
    """Asks for one of several objects of a kind by its position or size."""
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
    """Asks for a kind that is not in the scene, or for a meaningless word."""
    if happens(chance, _STRANGE_SHARE):
        return Query("".join(chance.choices(_LETTERS, k=chance.randint(3, 9))), (), "absent")
    there = {found.placement.name for found in scene}
    kind = chance.choice([kind for kind in KINDS if kind.name not in there])
    if kind.plural and happens(chance, _PLURAL_SHARE):
        return Query(kind.plural, (), "absent")
    colour = f"{_colour_word(chance, chance.choice(list(COLOURS)))} " if happens(chance, 0.5) else ""
    return Query(f"{colour}{_word(chance, kind)}", (), "absent")


def _nearly_there(chance: random.Random, scene: list[Found]) -> Query:
    """Asks for a kind of the scene in a colour that it does not have there, or for an absent kind in a used colour."""
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
    """Orders objects from left to right."""
    return tuple(sorted(members, key=lambda index: scene[index].box[0]))


def _word(chance: random.Random, kind: Kind) -> str:
    return chance.choice(kind.synonyms) if kind.synonyms and happens(chance, _SYNONYM_SHARE) else kind.name


def _colour_word(chance: random.Random, colour: str) -> str:
    synonyms = COLOUR_SYNONYMS.get(colour, ())
    return chance.choice(synonyms) if synonyms and happens(chance, _SYNONYM_SHARE) else colour
