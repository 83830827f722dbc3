"""The requests that all contenders get."""

import io
import itertools
from typing import Final

import numpy as np
from PIL import Image

from paligemma_engine import Request
from parts.scenes import SHAPES
from parts.training.names import COLOURS

NEW_TOKENS: Final = 24  # usual length of an answer with one object
IMAGE_SIZE: Final = (640, 480)
BLOCKS: Final = (15, 20, 3)
JPEG_QUALITY: Final = 90
ANSWER_TIMEOUT_S: Final = 100.0


class Work:
    """An endless supply of requests. Pictures differ unless `same_picture` is set, so that no cache has seen them."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._prompts = itertools.cycle(f"segment {colour} {shape}" for shape in SHAPES for colour in COLOURS)

    def requests(self, count: int, *, same_picture: bool = False) -> list[Request]:
        """Returns the next requests; with `same_picture` all share one new picture."""
        pictures = [_draw(next(self._numbers)) for _ in range(1 if same_picture else count)]
        return [
            Request(
                image=picture,
                prompt=next(self._prompts),
                max_new_tokens=NEW_TOKENS,
                timeout_s=ANSWER_TIMEOUT_S,
            )
            for picture in itertools.islice(itertools.cycle(pictures), count)
        ]


def _draw(number: int) -> bytes:
    """Draws a JPEG of soft blocks in random colours."""
    blocks = np.random.default_rng(number).integers(0, 256, BLOCKS, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize(IMAGE_SIZE).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
