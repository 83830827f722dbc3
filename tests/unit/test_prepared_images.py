"""A picture that several prompts ask about is decoded once."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from engines import Bench
from PIL import Image
from stack import wait_until

from paligemma_engine import Answer
from paligemma_engine.errors import InvalidImage
from paligemma_engine.preparation import planner
from paligemma_engine.preparation.prepared_images import PreparedImages
from paligemma_engine.requests.prepared import PreparedImage
from parts.scenes import draw_scene

PICTURE_BYTES = 12


def picture_of(encoded: bytes) -> PreparedImage:
    return PreparedImage(np.zeros((2, 2, 3), np.uint8), (2, 2), encoded, np.zeros(0, np.float32))


class Counted:
    """Prepares, and says of what."""

    def __init__(self, prepare: Callable[[bytes], PreparedImage] = picture_of) -> None:
        self.files: list[bytes] = []
        self._prepare = prepare

    def __call__(self, encoded: bytes) -> PreparedImage:
        self.files.append(encoded)
        return self._prepare(encoded)


def test_the_least_recently_used_is_dropped_first() -> None:
    prepare = Counted()
    images = PreparedImages(prepare, max_bytes=2 * PICTURE_BYTES)
    for file in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert images.of(file).digest == file
    assert prepare.files == [b"a", b"b", b"c", b"b"]


def test_with_no_memory_for_them_nothing_is_kept() -> None:
    prepare = Counted()
    images = PreparedImages(prepare, max_bytes=PICTURE_BYTES - 1)
    assert images.of(b"a") is not images.of(b"a")
    assert len(prepare.files) == 2


@pytest.mark.parametrize("max_bytes", [0, 10 * PICTURE_BYTES])
@pytest.mark.parametrize("fails", [False, True])
def test_those_who_ask_at_the_same_time_share_one_preparation(max_bytes: int, fails: bool) -> None:
    """Also where it fails; a failure is not kept."""
    others: list[Future[PreparedImage]] = []

    def hold(encoded: bytes) -> PreparedImage:
        if not others:
            others.extend(pool.submit(images.of, encoded) for _ in range(3))
            (running,) = images._running.values()
            wait_until(lambda: len(running._condition._waiters) == len(others), 20, "all of them wait for this one")  # type: ignore[attr-defined]
        if fails:
            raise InvalidImage("damaged")
        return picture_of(encoded)

    prepare = Counted(hold)
    images = PreparedImages(prepare, max_bytes=max_bytes)
    with ThreadPoolExecutor(3) as pool:
        if fails:
            with pytest.raises(InvalidImage):
                images.of(b"a")
            assert all(isinstance(other.exception(), InvalidImage) for other in others)
        else:
            image = images.of(b"a")
            assert all(other.result() is image for other in others)
    assert len(prepare.files) == 1
    if fails:
        with pytest.raises(InvalidImage):
            images.of(b"a")
        assert len(prepare.files) == 2


def test_an_engine_decodes_a_picture_once_for_several_prompts(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decode = planner.decode_image

    def count(encoded: bytes, limits: planner.ImageLimits) -> Image.Image:
        decoded.append(encoded)
        return decode(encoded, limits)

    monkeypatch.setattr(planner, "decode_image", count)
    scene, other = draw_scene(12, object_count=2), draw_scene(13)
    prompts = [f"segment {found.name}" for found in scene.objects]
    bench = Bench(models_dir)
    together = bench.ask(scene.jpeg(), f"{prompts[0]} ; {scene.objects[1].name}")
    alone = [pending.wait() for pending in [bench.submit(scene.jpeg(), prompt) for prompt in prompts]]
    assert isinstance(bench.ask(other.jpeg(), prompts[0]), Answer)
    bench.engine.close(drain_timeout_s=5)
    assert decoded == [scene.jpeg(), other.jpeg()]
    assert [answer.targets[0].text for answer in alone] == [target.text for target in together.targets]
