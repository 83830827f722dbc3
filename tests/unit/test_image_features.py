"""Features of a picture are computed once for several prompts; answers stay what they are without."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import Bench, demo_checkpoint
from PIL import Image

from paligemma_engine.device.feature_cache import FeatureCache
from paligemma_engine.model.vision_step import VisionStep
from paligemma_engine.preparation.pixels import ImagePreparer
from paligemma_engine.requests.prepared import PreparedImage
from parts.scenes import draw_scene

FEATURE_BYTES = 64 * 192 * 4  # of the demo model: image tokens, hidden size, float32


@pytest.fixture(scope="module")
def bench(models_dir: Path) -> Iterator[Bench]:
    bench = Bench(models_dir)
    yield bench
    bench.engine.close(drain_timeout_s=5)


def sources(bench: Bench) -> dict[str, float]:
    family = "paligemma_image_features_total:"
    return {name.removeprefix(family): count for name, count in bench.totals_so_far().items() if family in name}


def tokens(bench: Bench, image: bytes, prompt: str) -> tuple[list[str], list[float]]:
    found = [token for target in bench.ask(image, prompt).targets for token in target.tokens]
    return [token.text for token in found], [token.logprob for token in found]


def test_where_there_is_no_memory_to_keep_them_they_are_not_kept() -> None:
    class Unclonable(torch.Tensor):
        def clone(self, **_: object) -> torch.Tensor:
            raise torch.OutOfMemoryError

    computed = torch.ones(2, 3).as_subclass(Unclonable)
    features = FeatureCache(lambda _: computed[None], max_bytes=1000)
    picture = PreparedImage(np.zeros((1, 1, 3), np.uint8), (1, 1), b"picture", np.zeros((3, 1, 1), np.float32))
    assert features.of([picture])[0].data_ptr() == computed.data_ptr()
    assert picture not in features


def test_the_answer_is_the_same_and_the_tower_runs_once(bench: Bench, models_dir: Path) -> None:
    scene = draw_scene(12, object_count=2)
    first, second = (f"segment {found.name}" for found in scene.objects)
    together = f"{first} ; {scene.objects[1].name}"
    fresh = Bench(models_dir, feature_cache_bytes=0)
    for prompt in (first, second, together):
        texts, logprobs = tokens(fresh, scene.jpeg(), prompt)
        assert tokens(bench, scene.jpeg(), prompt) == (texts, pytest.approx(logprobs, abs=1e-4))
    fresh.engine.close(drain_timeout_s=5)
    assert sources(fresh) == {"computed": 4}
    assert sources(bench) == {"computed": 1, "kept": 3}


def test_pixels_count_not_files(bench: Bench) -> None:
    before = sources(bench).get("computed", 0)
    for compress_level in (1, 9):
        file = io.BytesIO()
        draw_scene(13).image.save(file, "PNG", compress_level=compress_level)
        bench.ask(file.getvalue(), "segment red star")
    assert sources(bench)["computed"] == before + 1


def prepared(models_dir: Path, seed: int) -> PreparedImage:
    return ImagePreparer(demo_checkpoint(models_dir).processor.image_processor)(draw_scene(seed).image)


def tower(models_dir: Path, most: int = 1) -> Callable[[Sequence[PreparedImage]], torch.Tensor]:
    vision = VisionStep(demo_checkpoint(models_dir).model, most=most).eval()

    def compute(images: Sequence[PreparedImage]) -> torch.Tensor:
        vision.load(images)
        with torch.inference_mode():
            return vision()

    return compute


def test_features_that_are_kept_survive_the_next_picture(models_dir: Path) -> None:
    """On a GPU the tower writes all of its outputs to the same place."""
    one, two = (prepared(models_dir, seed) for seed in (1, 2))
    compute, output = tower(models_dir), torch.zeros(1, 64, 192)
    features = FeatureCache(lambda images: output.copy_(compute(images)), max_bytes=2 * FEATURE_BYTES)
    features.of([one])
    features.of([two])
    assert features.of([one])[0].equal(compute([one])[0])
    assert features.of([two])[0].equal(compute([two])[0])


def test_several_pictures_are_computed_together_each_once(models_dir: Path) -> None:
    one, two, three = (prepared(models_dir, seed) for seed in (1, 2, 3))
    alone, together = tower(models_dir), tower(models_dir, most=3)
    asked: list[list[PreparedImage]] = []
    features = FeatureCache(lambda images: (asked.append(list(images)), together(images))[1], max_bytes=10**9)
    features.of([two])
    found = features.of([one, two, one, three])
    assert asked == [[two], [one, three]]
    for image, computed in zip([one, two, one, three], found, strict=True):
        torch.testing.assert_close(computed, alone([image])[0], rtol=0, atol=1e-4)


def test_the_least_recently_used_one_goes(models_dir: Path) -> None:
    one, two, three = (prepared(models_dir, seed) for seed in (1, 2, 3))
    features = FeatureCache(tower(models_dir), max_bytes=2 * FEATURE_BYTES)
    (kept,) = features.of([one])
    features.of([two])
    assert features.of([one])[0] is kept
    features.of([three])
    assert [image in features for image in (one, two, three)] == [True, False, True]
    features.clear()
    assert one not in features
    assert features.of([one])[0].equal(kept)


def test_what_is_larger_than_the_bound_is_not_kept(models_dir: Path) -> None:
    image = prepared(models_dir, 1)
    features = FeatureCache(tower(models_dir), max_bytes=FEATURE_BYTES - 1)
    assert features.of([image])[0].nbytes == FEATURE_BYTES
    assert image not in features


def test_pictures_that_differ_in_one_pixel_are_two(models_dir: Path) -> None:
    prepare = ImagePreparer(demo_checkpoint(models_dir).processor.image_processor)
    picture = Image.new("RGB", (224, 224), "grey")
    before = prepare(picture)
    picture.putpixel((5, 7), (255, 0, 0))
    assert prepare(picture).digest != before.digest
