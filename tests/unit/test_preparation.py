"""What the model is given is what transformers' own processor makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import demo_checkpoint
from PIL import Image

from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.errors import InvalidPrompt
from paligemma_engine.model.vision_step import VisionStep
from paligemma_engine.preparation.pixels import ImagePreparer
from paligemma_engine.preparation.prompt_tokens import MAX_PROMPT_TOKENS, tokenize_prompt
from paligemma_engine.preparation.prompts import split_prompt
from paligemma_engine.requests.prepared import PreparedImage
from parts.scenes import draw_scene


@pytest.fixture(scope="module")
def checkpoint(models_dir: Path) -> Checkpoint:
    return demo_checkpoint(models_dir)


def shown(checkpoint: Checkpoint, image: PreparedImage) -> np.ndarray:
    """What the vision tower is given."""
    step = VisionStep(checkpoint.model)
    with torch.inference_mode():
        step.load([image])
    return step.pixel_values[0].numpy()


@pytest.mark.parametrize(
    "prompt", ["segment red circle", "detect star ; ring", "caption en", "ä ö é \u4e2d", "<loc0100> <seg001>"]
)
def test_prompt_ids_equal_the_processors(checkpoint: Checkpoint, prompt: str) -> None:
    expected = checkpoint.processor(images=Image.new("RGB", (8, 8)), text=f"<image>{prompt}")["input_ids"][0]
    assert tokenize_prompt(checkpoint, split_prompt(prompt)[0]) == list(expected)


@pytest.mark.parametrize("size", [(320, 240), (224, 224), (7, 500), (1, 1)])
def test_pixel_values_equal_the_processors(checkpoint: Checkpoint, size: tuple[int, int]) -> None:
    image = draw_scene(3).image.resize(size)
    expected = checkpoint.processor(images=image, text="<image>a", return_tensors="pt")["pixel_values"][0].numpy()
    prepared = ImagePreparer(checkpoint.processor.image_processor)(image)
    np.testing.assert_array_equal(shown(checkpoint, prepared), expected)
    assert prepared.original_hw == (size[1], size[0])


def test_input_image_is_the_resized_picture(checkpoint: Checkpoint) -> None:
    image = draw_scene(3).image
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
    prepared = ImagePreparer(checkpoint.processor.image_processor)(image)
    np.testing.assert_array_equal(prepared.input_image, expected)


def test_a_processor_that_is_more_than_a_table_is_used_as_it_is(checkpoint: Checkpoint) -> None:
    class Smearing:
        """Makes of a pixel what depends on its neighbours."""

        size, resample = checkpoint.processor.image_processor.size, checkpoint.processor.image_processor.resample

        def __call__(self, **arguments: Any) -> Any:
            values = checkpoint.processor.image_processor(**arguments)["pixel_values"]
            return {"pixel_values": values + np.roll(values, 1, axis=-1)}

    image = draw_scene(3).image
    expected = Smearing()(images=image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(shown(checkpoint, ImagePreparer(Smearing())(image)), expected)


def test_the_longest_prompt_fits_and_a_longer_one_is_refused(checkpoint: Checkpoint) -> None:
    def ids(words: int) -> list[int]:
        return tokenize_prompt(checkpoint, split_prompt("segment" + " red" * words)[0])

    assert len(ids(MAX_PROMPT_TOKENS - 3)) == checkpoint.image_token_count + MAX_PROMPT_TOKENS
    with pytest.raises(InvalidPrompt, match="at most 126 fit"):
        ids(MAX_PROMPT_TOKENS - 2)


@pytest.mark.parametrize("token", ["<image>", "<bos>", "<eos>", "<pad>"])
def test_tokens_that_steer_the_model_are_refused(checkpoint: Checkpoint, token: str) -> None:
    with pytest.raises(InvalidPrompt, match=token):
        tokenize_prompt(checkpoint, split_prompt(f"segment a {token} b")[0])


def test_capital_letters_are_the_tokenizers_business(checkpoint: Checkpoint) -> None:
    """The demo model knows small letters only, so its tokenizer makes them small."""
    lower, upper = (
        tokenize_prompt(checkpoint, split_prompt(f"segment {text}")[0]) for text in ("red star", "Red STAR")
    )
    assert lower == upper
