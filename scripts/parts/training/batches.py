"""Training batches: pictures with their objects, and prompts about them."""

import random
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from parts.scenes import draw_scene, relative_bounds
from parts.training.lots import happens
from parts.training.masks import crop_mask
from parts.training.names import COLOURS, KINDS, TASKS
from parts.training.prompts import Found, Query, queries
from parts.training.sampling import SceneStyle, sample_scene
from parts.training.scenes import Placement

FIRST_TRAINING_SEED: Final = 1 << 32  # lower seeds are for tests and evaluation
_DETECT_SHARE: Final = 0.15
_PICKS_PER_PROMPT: Final = 3
_KIND_IDS: Final = {kind.name: index for index, kind in enumerate(KINDS)}
_COLOUR_IDS: Final = {colour: index for index, colour in enumerate(COLOURS)}
NO_COLOUR: Final = len(COLOURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diet:
    """The composition of batches.

    Attributes:
        pictures: pictures per batch.
        prompts: prompts per picture.
        style: style of the scenes.
        plain_share: share of scenes with upright shapes side by side, as `scripts/parts/scenes.py` draws them.
        weights: relative frequency of each form of prompt, among those that a scene allows.
        several_share: share of batches whose prompts ask for several objects.
    """

    pictures: int = 24
    prompts: int = 3
    style: SceneStyle = field(default_factory=SceneStyle)
    plain_share: float = 0.2
    weights: tuple[tuple[str, float], ...] = (
        ("name", 4),
        ("colour", 4),
        ("position", 1.5),
        ("size", 1.5),
        ("absent", 1.5),
    )
    several_share: float = 0.0


SEVERAL_WEIGHTS: Final = (("plural", 3), ("several", 2), ("absent", 0.5))


@dataclass(frozen=True, slots=True)
class Asked:
    """One training sequence: the picture's position in the batch, the words, the targets among the batch's objects."""

    picture: int
    task: str
    words: str
    targets: tuple[int, ...]
    form: str


@dataclass(slots=True)
class Batch:
    """A batch.

    Attributes:
        pixels: uint8[B, 3, H, W].
        crops: float32[N, 64, 64], the objects' masks in their boxes.
        boxes: float32[N, 4], y_min, x_min, y_max, x_max in [0, 1].
        shares: float32[N, patches], share of each patch that an object covers, in [0, 1].
        pictures: int64[N], index of the picture that an object is in.
        kinds: int64[N], indices into KINDS.
        colours: int64[N], indices into COLOURS, or NO_COLOUR.
        asked: the prompts.
    """

    pixels: torch.Tensor
    crops: torch.Tensor
    boxes: torch.Tensor
    shares: torch.Tensor
    pictures: torch.Tensor
    kinds: torch.Tensor
    colours: torch.Tensor
    asked: list[Asked]

    def to(self, device: str) -> None:
        """Moves the tensors."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, torch.Tensor):
                setattr(self, each.name, value.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn scene at the model's size, its objects, and their masks at the size at which they were drawn."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    found: list[Found]
    masks: np.ndarray[Any, np.dtype[np.bool_]]


class Batches(Dataset[Batch]):
    """Batches by number; the same number gives the same batch."""

    def __init__(self, diet: Diet, *, seed: int, image_size: int, grid: int, count: int) -> None:
        """Args:
        diet: what they are made of.
        seed: random seed; below FIRST_TRAINING_SEED it yields scenes that are meant for tests.
        image_size: side of a picture in pixels.
        grid: patches per row.
        count: number of batches.
        """
        self._diet, self._seed, self._count = diet, seed, count
        self._image_size, self._grid = image_size, grid

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Batch:
        diet = self._diet
        chance = random.Random((self._seed << 24) + number)
        several = happens(chance, diet.several_share)
        pictures, asked = [], []
        first = 0
        for position in range(diet.pictures):
            picture = self._picture(chance)
            pictures.append(picture)
            weights = SEVERAL_WEIGHTS if several else diet.weights
            for query in _pick(chance, picture.found, weights, diet.prompts):
                task = TASKS[1] if happens(chance, _DETECT_SHARE) else TASKS[0]
                targets = tuple(first + target for target in query.targets)
                asked.append(Asked(position, task, query.words, targets, query.form))
            first += len(picture.found)
        return self._collate(pictures, asked)

    def _picture(self, chance: random.Random) -> Picture:
        seed = self._seed * (1 << 20) + chance.getrandbits(40)
        if happens(chance, self._diet.plain_share):
            return plain_picture(seed, self._image_size)
        return picture(seed, self._diet.style, self._image_size)

    def _collate(self, pictures: list[Picture], asked: list[Asked]) -> Batch:
        objects = [(index, found) for index, picture in enumerate(pictures) for found in picture.found]
        masks = [mask for picture in pictures for mask in picture.masks]
        return Batch(
            pixels=torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
            .permute(0, 3, 1, 2)
            .contiguous(),
            crops=torch.from_numpy(np.stack([crop_mask(mask) for mask in masks])),
            boxes=torch.tensor([[found.box[corner] for corner in (1, 0, 3, 2)] for _, found in objects]),
            shares=torch.from_numpy(np.stack([patch_shares(mask, self._grid) for mask in masks])),
            pictures=torch.tensor([index for index, _ in objects]),
            kinds=torch.tensor([_KIND_IDS[found.placement.name] for _, found in objects]),
            colours=torch.tensor([_COLOUR_IDS.get(found.placement.colour or "", NO_COLOUR) for _, found in objects]),
            asked=asked,
        )


def picture(seed: int, style: SceneStyle, image_size: int) -> Picture:
    """A scene drawn at the model's size, which is cheaper than scaling it down."""
    layout, drawn = sample_scene(seed, style, output_size=(image_size, image_size))
    return Picture(drawn.pixels, find(layout.placements, drawn.masks), drawn.masks)


def plain_picture(seed: int, image_size: int) -> Picture:
    """A scene of `scripts/parts/scenes.py`, scaled as the processor scales it."""
    scene = draw_scene(seed)
    pixels = np.asarray(scene.image.resize((image_size, image_size), Image.Resampling.BICUBIC))
    placements = [Placement(name=each.shape, colour=each.colour, centre=(0.0, 0.0), side=0.0) for each in scene.objects]
    masks = np.stack([each.mask for each in scene.objects])
    return Picture(pixels, find(tuple(placements), masks), masks)


def find(placements: tuple[Placement, ...], masks: np.ndarray[Any, np.dtype[np.bool_]]) -> list[Found]:
    """The objects of a scene as prompts see them, for masks bool[N, H, W]."""
    return [
        Found(placement, relative_bounds(mask), float(mask.mean()))
        for placement, mask in zip(placements, masks, strict=True)
    ]


def patch_shares(mask: np.ndarray[Any, np.dtype[np.bool_]], grid: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32[grid * grid], the share of each patch that a mask bool[H, W] covers; H, W are multiples of the grid."""
    height, width = mask.shape
    cells = mask.reshape(grid, height // grid, grid, width // grid)
    shares: np.ndarray[Any, np.dtype[np.float32]] = cells.mean(axis=(1, 3), dtype=np.float32).reshape(-1)
    return shares


def _pick(chance: random.Random, found: list[Found], weights: tuple[tuple[str, float], ...], count: int) -> list[Query]:
    """At most `count` different prompts about a scene, of the forms that it allows."""
    possible = queries(chance, found)
    forms = [(form, weight) for form, weight in weights if possible[form]]
    names, shares = [form for form, _ in forms], [weight for _, weight in forms]
    picked: dict[str, Query] = {}
    for _ in range(_PICKS_PER_PROMPT * count):  # bounded, because a picture may not allow `count` different ones
        query = chance.choice(possible[chance.choices(names, weights=shares)[0]])
        picked.setdefault(query.words, query)
        if len(picked) == count:
            break
    return list(picked.values())
