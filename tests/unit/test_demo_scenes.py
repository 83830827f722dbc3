"""The drawn world that the demo model is trained on: what is said of a scene is what is seen in it."""

import random

import numpy as np
import pytest

from parts.scenes import bounds
from parts.training.atlas import TILE, drawn_names, read_atlas
from parts.training.masks import crop_mask, sample_masks
from parts.training.names import COLOURS, KINDS, KINDS_BY_NAME, Kind, all_words, colours_of
from parts.training.prompts import Found, Query, queries
from parts.training.sampling import SceneStyle, sample_scene
from parts.training.scenes import Layout, Placement, draw
from parts.training.sprites import sprite

FAR_APART = [(0.0, 0.0, 0.2, 0.2), (0.7, 0.6, 1.0, 0.9), (0.4, 0.3, 0.5, 0.4)]


def place(name: str, colour: str | None, x: float, y: float, side: float, angle: float = 0.0) -> Placement:
    return Placement(name=name, colour=colour, centre=(x, y), side=side, angle_degrees=angle)


def found(name: str, colour: str | None, box: tuple[float, float, float, float]) -> Found:
    return Found(place(name, colour, 0, 0, 0), box, (box[2] - box[0]) * (box[3] - box[1]))


def asked(scene: list[Found]) -> dict[str, list[Query]]:
    """All that is asked in many tries, by form."""
    chance = random.Random(0)
    collected: dict[str, list[Query]] = {}
    for _ in range(60):
        for form, made in queries(chance, scene).items():
            collected.setdefault(form, []).extend(made)
    return collected


def test_every_everyday_object_has_a_picture() -> None:
    atlas = read_atlas()
    assert len(atlas) == len(drawn_names()) >= 40
    for name, picture in atlas.items():
        alpha = np.asarray(picture.getchannel("A"))
        assert alpha.shape == (TILE, TILE), name
        assert 0.08 < (alpha > 127).mean() < 0.95, name
        assert max(np.ptp(np.flatnonzero((alpha > 127).any(axis=axis))) for axis in (0, 1)) > 0.95 * TILE, name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_drawn_in_its_colours(kind: Kind) -> None:
    pixels = {colour: np.asarray(sprite(kind.name, colour).levels[0]).astype(float) for colour in colours_of(kind)}
    first, *others = pixels.values()
    for other in others:
        assert (abs(first - other)[..., :3].sum(axis=-1) > 60).mean() > 0.1
        np.testing.assert_array_equal(first[..., 3], other[..., 3])


def test_no_word_means_two_things() -> None:
    meant: dict[str, set[str]] = {}
    for kind in KINDS:
        for word in (kind.name, *kind.synonyms, *([kind.plural] if kind.plural else [])):
            meant.setdefault(word, set()).add(kind.name)
    assert {word: kinds for word, kinds in meant.items() if len(kinds) > 1} == {}
    assert len(all_words()) == len(set(all_words()))


def test_a_drawn_object_lies_where_it_was_placed() -> None:
    layout = Layout((200, 100), 0, (place("square", "red", 60, 40, 40), place("circle", "blue", 150, 60, 60)))
    drawn = draw(layout, output_size=(400, 100))
    assert bounds(drawn.masks[0]) == pytest.approx((86, 23, 154, 57), abs=2)  # a square is 0.85 of its side
    assert bounds(drawn.masks[1]) == pytest.approx((242, 31, 358, 89), abs=2)
    for mask, colour in zip(drawn.masks, ("red", "blue"), strict=True):
        np.testing.assert_allclose(np.median(drawn.pixels[mask], axis=0), COLOURS[colour], atol=1)


def test_turning_is_clockwise() -> None:
    layout = Layout((100, 100), 0, (place("arrow", "red", 50, 50, 80, angle=90),))
    mask = draw(layout).masks[0]
    widths = mask.sum(axis=1)[np.flatnonzero(mask.any(axis=1))]
    assert widths[-8] < widths[: len(widths) // 2].mean() < widths.max()  # the tip is at the bottom
    assert np.flatnonzero(mask.sum(axis=1) == widths.max()).mean() > 50


def test_what_is_covered_is_not_in_the_mask() -> None:
    below, above = place("square", "red", 50, 50, 80), place("square", "blue", 84, 50, 80)
    drawn = draw(Layout((140, 100), 0, (below, above)))
    assert not (drawn.masks[0] & drawn.masks[1]).any()
    assert drawn.visible[0] == pytest.approx(0.5, abs=0.02)
    assert drawn.visible[1] == pytest.approx(1, abs=0.02)


def test_what_the_border_cuts_off_is_not_visible() -> None:
    drawn = draw(Layout((100, 100), 0, (place("circle", "red", 0, 50, 40),)))
    assert drawn.visible[0] == pytest.approx(0.5, abs=0.05)


def test_a_scene_is_the_same_for_the_same_seed_and_other_for_another() -> None:
    style = SceneStyle()
    layouts = [sample_scene(seed, style)[0] for seed in (3, 3, 4)]
    assert layouts[0] == layouts[1] != layouts[2]


def test_scenes_have_all_that_is_promised() -> None:
    scenes = [sample_scene(seed, SceneStyle(), output_size=(112, 112)) for seed in range(120)]
    placements = [each for layout, _ in scenes for each in layout.placements]
    assert {len(layout.placements) for layout, _ in scenes} == {1, 2, 3, 4, 5, 6}
    assert {KINDS_BY_NAME[each.name].family for each in placements} == {"shape", "everyday"}
    assert any(drawn.visible.min() < 0.9 for _, drawn in scenes)  # cut or covered
    assert any(abs(each.angle_degrees) > 40 for each in placements)
    assert any(len({each.name for each in layout.placements}) < len(layout.placements) for layout, _ in scenes)
    sides = [each.side / min(layout.size) for layout, _ in scenes for each in layout.placements]
    assert min(sides) < 0.12
    assert max(sides) > 0.7


def test_one_of_a_kind_is_asked_for_by_name_and_colour() -> None:
    made = asked([found("car", "red", FAR_APART[0]), found("star", "blue", FAR_APART[1])])
    assert {(query.words, query.targets) for query in made["name"]} == {("car", (0,)), ("auto", (0,)), ("star", (1,))}
    assert ("red car", (0,)) in {(query.words, query.targets) for query in made["colour"]}
    assert not made["position"] and not made["size"]
    assert all(set(query.targets) == {0, 1} for query in made["several"])


def test_two_of_a_kind_are_told_apart() -> None:
    made = asked([found("dog", None, FAR_APART[0]), found("dog", None, FAR_APART[1])])
    assert made["name"] == []
    told = {query.words.split()[0]: query.targets for query in made["position"] + made["size"]}
    assert told == {"left": (0,), "right": (1,), "top": (0,), "bottom": (1,), "largest": (1,), "smallest": (0,)}
    assert {(query.words, query.targets) for query in made["plural"]} == {("dogs", (0, 1))}


def test_plurals_go_from_left_to_right() -> None:
    made = asked([found("dog", None, box) for box in FAR_APART])
    assert {query.targets for query in made["plural"]} == {(0, 2, 1)}


def test_what_lies_nearly_level_is_not_told_apart_by_height() -> None:
    made = asked([found("dog", None, (0.0, 0.5, 0.2, 0.7)), found("dog", None, (0.6, 0.52, 0.8, 0.72))])
    assert {query.words.split()[0] for query in made["position"]} == {"left", "right"}
    assert made["size"] == []


def test_the_absent_is_absent() -> None:
    scene = [found("car", "red", FAR_APART[0]), found("star", "blue", FAR_APART[1])]
    words = {query.words for query in asked(scene)["absent"]}
    assert words.isdisjoint({"car", "auto", "star", "red car", "red auto", "blue star", "cars", "stars"})
    assert any(each in words for each in ("blue car", "red star"))  # nearly there
    assert all(query.targets == () for query in asked(scene)["absent"])


def test_a_crop_fills_its_square() -> None:
    mask = np.zeros((50, 80), bool)
    mask[10:30, 20:70] = True
    assert (crop_mask(mask) == 1).all()
    mask[10:20, 20:45] = False
    assert crop_mask(mask).mean() == pytest.approx(0.75, abs=0.01)


def test_masks_for_the_autoencoder_are_many_and_repeatable() -> None:
    masks = sample_masks(5, 24)
    np.testing.assert_array_equal(masks, sample_masks(5, 24))
    assert masks.shape == (24, 64, 64)
    assert len({mask.tobytes() for mask in masks}) == 24
    assert ((masks >= 0) & (masks <= 1)).all()
