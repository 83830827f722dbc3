"""Measures how many photographs per second the engine decodes and resizes, by number of workers.

    python scripts/preparation_benchmark.py

Draws a photo-like JPEG of 12 megapixels and prepares it for the demo model in 1, 2, 4, ... threads, up to twice the
number of cores, in several interleaved rounds. To keep a GPU busy, the rate must reach the GPU's requests per second;
PREPARATION_WORKERS sets the number of threads.
"""

import argparse
import io
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageFilter
from transformers import AutoImageProcessor

from paligemma_engine import EngineConfig
from paligemma_engine.config import default_preparation_workers
from paligemma_engine.preparation.decoding import ImageLimits, configure_pillow, decode_image
from paligemma_engine.preparation.pixels import ImagePreparer

MODEL: Final = Path(__file__).resolve().parent.parent.parent.parent / "models" / "paligemma2-demo-224"
PHOTO_SIZE: Final = (4000, 3000)


def main() -> int:
    """Prints a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=16, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config = EngineConfig()
    limits = ImageLimits(max_bytes=config.max_image_bytes, max_pixels=config.max_image_pixels)
    configure_pillow(limits)
    prepare = ImagePreparer(AutoImageProcessor.from_pretrained(MODEL))
    photo = draw_photo()
    cores = len(os.sched_getaffinity(0))
    counts = [1 << power for power in range((2 * cores).bit_length())]
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(arguments.rounds):
        for count in counts:
            with ThreadPoolExecutor(count) as pool:
                started = time.perf_counter()
                list(pool.map(lambda _: prepare(decode_image(photo, limits)), range(arguments.pictures)))
                rates[count].append(arguments.pictures / (time.perf_counter() - started))
    lone = statistics.median(rates[1])
    width, height = PHOTO_SIZE
    print(
        f"JPEG of {width} x {height}, {len(photo) / 1e6:.1f} MB; {cores} cores; auto is {default_preparation_workers()}"
    )
    for count, measured in rates.items():
        rate = statistics.median(measured)
        print(f"{count:3d} workers  {rate:6.1f} pictures/s  {rate / lone:5.2f} times one worker")
    return 0


def draw_photo() -> bytes:
    """Draws smooth colour gradients with fine texture, which compress in JPEG about as a photograph does."""
    generator = np.random.default_rng(0)
    width, height = PHOTO_SIZE
    light = Image.fromarray(generator.integers(0, 256, (60, 80, 3), np.uint8)).resize(PHOTO_SIZE)
    grain = Image.fromarray(generator.integers(0, 256, (height // 2, width // 2, 3), np.uint8)).resize(PHOTO_SIZE)
    buffer = io.BytesIO()
    Image.blend(light, grain.filter(ImageFilter.GaussianBlur(1.5)), 0.25).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
