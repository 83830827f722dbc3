"""Evaluation cases from drawn scenes: a picture, a prompt, and the true objects."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from PIL import Image

from paligemma_tokens.vocabulary import SEPARATOR
from parts.evaluate.protocol import Truth
from parts.scenes import SHAPES, Scene, draw_scene, relative_bounds
from parts.training.batches import find
from parts.training.lots import happens
from parts.training.names import COLOURS, SHAPE_FAMILY
from parts.training.prompts import queries
from parts.training.sampling import SceneStyle, sample_scene
from parts.training.scenes import draw

SCALE: Final = 2  # scenes are drawn this many times larger than their layout, because masks are compared at full size
_FORMS: Final = (
    ("name", 4),
    ("colour", 4),
    ("position", 1.5),
    ("size", 1.5),
    ("plural", 1.5),
    ("several", 1.5),
    ("absent", 3),
)
_DETECT_SHARE: Final = 0.15


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        image: RGB.
        task: segment or detect.
        words: the target's words.
        truths: the true objects; empty if the target is absent.
        form: the kind of question, for the table.
    """

    image: Image.Image
    task: str
    words: str
    truths: list[Truth]
    form: str

    @property
    def prompt(self) -> str:
        """The prompt as a user writes it."""
        return f"{self.task} {self.words}"


def scene_cases(seed: int, count: int) -> Iterator[Case]:
    """Yields drawn scenes of both families, with one question about each."""
    for number in range(seed, seed + count):
        chance = random.Random(number)
        layout, _ = sample_scene(number, SceneStyle())
        drawn = draw(layout, output_size=(layout.size[0] * SCALE, layout.size[1] * SCALE))
        found = find(layout.placements, drawn.masks)
        possible = queries(chance, found)
        forms = [(form, weight) for form, weight in _FORMS if possible[form]]
        form = chance.choices([form for form, _ in forms], weights=[weight for _, weight in forms])[0]
        query = chance.choice(possible[form])
        truths = [Truth(drawn.masks[target], found[target].box, found[target].kind.family) for target in query.targets]
        task = "detect" if happens(chance, _DETECT_SHARE) else "segment"
        yield Case(Image.fromarray(drawn.pixels), task, query.words, truths, form)


def plain_cases(seed: int, count: int) -> Iterator[Case]:
    """Yields scenes of `scripts/parts/scenes.py` (upright shapes side by side); by turns 1, 2 and absent targets."""
    for number in range(seed, seed + count):
        chance = random.Random(number)
        scene = draw_scene(number, object_count=chance.randint(2, 4))
        wanted = (1, 2, 0)[number % 3]
        if not wanted:
            yield Case(scene.image, "segment", _absent_shape(chance, scene), [], "absent")
            continue
        picked = chance.sample(scene.objects, min(wanted, len(scene.objects)))
        words = SEPARATOR.join(each.name if happens(chance, 0.5) else each.shape for each in picked)
        truths = [Truth(each.mask, relative_bounds(each.mask), SHAPE_FAMILY) for each in picked]
        yield Case(scene.image, "segment", words, truths, "one" if len(truths) == 1 else "two")


def _absent_shape(chance: random.Random, scene: Scene) -> str:
    """Names a shape that is not in the scene, or one of its shapes in another colour."""
    there = [each.shape for each in scene.objects]
    if happens(chance, 0.5):
        return chance.choice([shape for shape in SHAPES if shape not in there])
    drawn = chance.choice(scene.objects)
    return f"{chance.choice([colour for colour in COLOURS if colour != drawn.colour])} {drawn.shape}"
