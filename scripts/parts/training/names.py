"""The words for objects and colours that the demo model knows."""

from dataclasses import dataclass
from typing import Final

SHAPE_FAMILY: Final = "shape"
EVERYDAY_FAMILY: Final = "everyday"

COLOURS: Final = {  # name: red, green, blue
    "red": (214, 40, 46),
    "green": (46, 160, 67),
    "blue": (38, 92, 214),
    "yellow": (244, 208, 42),
    "orange": (240, 136, 30),
    "purple": (128, 60, 176),
    "cyan": (44, 190, 208),
    "pink": (240, 130, 176),
    "white": (248, 248, 248),
    "black": (24, 24, 26),
}
COLOUR_SYNONYMS: Final = {"purple": ("violet",), "cyan": ("turquoise",)}
PAINTS: Final = ("red", "green", "blue", "yellow", "orange", "purple", "pink")  # colours of repainted objects

TASKS: Final = ("segment", "detect")
POSITIONS: Final = ("left", "right", "top", "bottom")
SIZES: Final = ("largest", "smallest")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object.

    Attributes:
        name: its name.
        family: shape or everyday.
        synonyms: other words for it.
        plural: None if it equals the singular.
        glyph: the emoji that it is drawn from; None for shapes.
        colour: its colour; None if no single word fits, and for shapes, which are drawn in all colours.
        repainted: whether it is also drawn in other colours.
    """

    name: str
    family: str
    synonyms: tuple[str, ...] = ()
    plural: str | None = None
    glyph: str | None = None
    colour: str | None = None
    repainted: bool = False


def _shape(name: str, *synonyms: str, plural: str | None = None) -> Kind:
    return Kind(name, SHAPE_FAMILY, synonyms, plural or f"{name}s")


def _everyday(
    glyph: str,
    name: str,
    *synonyms: str,
    plural: str | None = "",
    colour: str | None = None,
    repainted: bool = False,
) -> Kind:
    plural = f"{name}s" if plural == "" else plural
    return Kind(name, EVERYDAY_FAMILY, synonyms, plural, glyph, colour, repainted)


KINDS: Final = (
    _shape("circle", "disc", "disk"),
    _shape("square"),
    _shape("rectangle"),
    _shape("triangle"),
    _shape("star"),
    _shape("cross", "plus", plural="crosses"),
    _shape("ring"),
    _shape("heart"),
    _shape("crescent", "moon"),
    _shape("diamond", "rhombus"),
    _shape("pentagon"),
    _shape("arrow"),
    _everyday("🐈", "cat", "kitten", colour="orange"),
    _everyday("🐕", "dog", "puppy"),
    _everyday("🐎", "horse", "pony"),
    _everyday("🐄", "cow"),
    _everyday("🐑", "sheep", "lamb", plural=None),
    _everyday("🐖", "pig", colour="pink"),
    _everyday("🐘", "elephant"),
    _everyday("🐇", "rabbit", "bunny"),
    _everyday("🐦", "bird", colour="blue"),
    _everyday("🦆", "duck"),
    _everyday("🦉", "owl"),
    _everyday("🐟", "fish", plural="fishes", colour="blue"),
    _everyday("🐢", "turtle", "tortoise", colour="green"),
    _everyday("🦋", "butterfly", plural="butterflies"),
    _everyday("🐧", "penguin"),
    _everyday("🐸", "frog", colour="green"),
    _everyday("🚗", "car", "auto", colour="red", repainted=True),
    _everyday("🚌", "bus", plural="buses", colour="blue"),
    _everyday("🚚", "truck", "lorry"),
    _everyday("✈", "airplane", "plane", colour="blue"),
    _everyday("🚀", "rocket"),
    _everyday("⛵", "boat", "sailboat"),
    _everyday("🚂", "train", "locomotive"),
    _everyday("🌳", "tree"),
    _everyday("🌻", "flower", "sunflower", colour="yellow"),
    _everyday("🍄", "mushroom"),
    _everyday("🍎", "apple", colour="red", repainted=True),
    _everyday("🍌", "banana", colour="yellow"),
    _everyday("🍓", "strawberry", plural="strawberries", colour="red"),
    _everyday("🥕", "carrot", colour="orange"),
    _everyday("🍕", "pizza"),
    _everyday("🍔", "hamburger", "burger"),
    _everyday("🍩", "donut", "doughnut"),
    _everyday("🍉", "watermelon", "melon"),
    _everyday("☕", "cup", "mug", colour="white"),
    _everyday("📕", "book", colour="red", repainted=True),
    _everyday("📷", "camera"),
    _everyday("⏰", "clock", "alarm", colour="red"),
    _everyday("☂", "umbrella", colour="purple", repainted=True),
    _everyday("🎸", "guitar", colour="red"),
    _everyday("🔔", "bell", colour="yellow"),
    _everyday("🏠", "house", "home"),
    _everyday("👟", "shoe", "sneaker", colour="blue", repainted=True),
    _everyday("🎩", "hat", colour="black"),
    _everyday("👕", "shirt"),
    _everyday("🎈", "balloon", colour="red", repainted=True),
    _everyday("🎁", "gift", "present", colour="yellow"),
    _everyday("⚽", "ball", "football"),
)
KINDS_BY_NAME: Final = {kind.name: kind for kind in KINDS}


def colours_of(kind: Kind) -> tuple[str | None, ...]:
    """The colours that a kind is drawn in; None for a colour that no word fits."""
    if kind.family == SHAPE_FAMILY:
        return tuple(COLOURS)
    return tuple(dict.fromkeys((kind.colour, *PAINTS))) if kind.repainted else (kind.colour,)


def all_words() -> list[str]:
    """Every word that prompts can have, each once, in a fixed order."""
    words = [*TASKS, ";", *POSITIONS, *SIZES, *COLOURS]
    words += [synonym for synonyms in COLOUR_SYNONYMS.values() for synonym in synonyms]
    for kind in KINDS:
        words += [kind.name, *kind.synonyms, *([kind.plural] if kind.plural else [])]
    return list(dict.fromkeys(words))
