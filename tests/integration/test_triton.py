"""The models on a real Triton, called directly."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from checkpoints import DEMO_MODEL_ID, Transformers
from PIL import Image
from triton_fake import read_config
from tritonclient.utils import InferenceServerException

from parts.scenes import draw_scene

PROTOCOLS = ["grpc", "http"]
PAIRS = 50
SEGMENT_OUTPUTS = [output.name for output in read_config("segment").output]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def declared_bomb() -> bytes:
    bits = 13_299 | 13_299 << 14
    payload = b"\x2f" + struct.pack("<I", bits) + bytes(11)
    chunk = b"VP8L" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def test_http_and_grpc_give_equal_answers(stack: Any, sample_image: bytes) -> None:
    picture = jpeg(Image.open(io.BytesIO(sample_image)))
    by_grpc, by_http = (stack.ask(protocol, picture, "segment blue star ; cyan ring") for protocol in PROTOCOLS)
    assert set(by_grpc) == set(by_http)
    for name, array in by_grpc.items():
        np.testing.assert_array_equal(array, by_http[name], err_msg=name)
    assert by_grpc["labels"].tolist() == [b"blue star", b"cyan ring"]
    assert by_grpc["has_mask"].tolist() == [True, True]
    assert (by_grpc["masks"].shape, by_grpc["masks"].dtype) == ((2, 64, 64), np.float32)
    assert by_grpc["image_size"].tolist() == [480, 640]
    assert by_grpc["input_image"].shape == (224, 224, 3)
    assert by_grpc["finish_reason"].tolist() == [b"eos", b"eos"]
    assert by_grpc["targets"].tolist() == [b"blue star", b"cyan ring"]
    assert by_grpc["target"].tolist() == [0, 1]


@pytest.mark.parametrize("name", SEGMENT_OUTPUTS)
def test_each_output_can_be_asked_for_alone(stack: Any, sample_image: bytes, name: str) -> None:
    """Triton refused `text` alone: one output of the first step was an input of the next, too."""
    whole = stack.ask("grpc", sample_image, "segment blue star ; cyan ring")
    outputs = [tritonclient.grpc.InferRequestedOutput(name)]
    alone = stack.ask("grpc", sample_image, "segment blue star ; cyan ring", outputs=outputs)
    assert set(alone) == {name}
    np.testing.assert_array_equal(alone[name], whole[name])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_matching_object_is_a_success_with_none(stack: Any, sample_image: bytes, protocol: str) -> None:
    answer = stack.ask(protocol, sample_image, "segment red car")
    assert answer["boxes"].shape == (0, 4)
    assert answer["masks"].shape == (0, 64, 64)
    assert answer["labels"].shape == answer["has_mask"].shape == (0,)
    assert answer["text"].tolist() == [b""]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_detect_answer_has_no_masks(stack: Any, sample_image: bytes, protocol: str) -> None:
    answer = stack.ask(protocol, sample_image, "detect blue star")
    assert answer["has_mask"].tolist() == [False]
    assert (answer["masks"] == -1).all()
    assert answer["scores"][0, 1] == 0


def test_masks_lie_where_the_shapes_are(stack: Any) -> None:
    """The whole way from pixels to pixels: the predicted boxes and masks overlap the drawn ones."""
    overlaps = []
    for seed in range(12):
        scene = draw_scene(seed)
        for drawn in scene.objects:
            if drawn.shape == "arrow":  # the first demo model does not know arrows well
                continue
            answer = stack.ask("grpc", png(scene.image), f"segment {drawn.colour} {drawn.shape}")
            predicted = np.zeros(drawn.mask.shape, bool)
            if len(answer["boxes"]):
                x_min, y_min, x_max, y_max = (answer["boxes"][0] * [320, 240, 320, 240]).round().astype(int)
                mask = Image.fromarray(answer["masks"][0]).resize(
                    (x_max - x_min, y_max - y_min), Image.Resampling.BILINEAR
                )
                predicted[y_min:y_max, x_min:x_max] = np.asarray(mask) > 0
            overlaps.append((predicted & drawn.mask).sum() / (predicted | drawn.mask).sum())
    assert len(overlaps) > 20
    assert np.mean(overlaps) > 0.7


def test_answers_equal_transformers_token_for_token(stack: Any, models_dir: Path) -> None:
    transformers = Transformers(models_dir / DEMO_MODEL_ID)
    tokenizer = transformers.processor.tokenizer
    for seed in range(PAIRS):
        scene = draw_scene(seed + 1000)
        drawn = scene.objects[seed % len(scene.objects)]
        prompt = f"segment {drawn.colour} {drawn.shape}"
        reference = transformers.generate(scene.image, prompt, max_new_tokens=100)
        answer = stack.ask("grpc", png(scene.image), prompt, model="paligemma")
        assert [token.decode() for token in answer["tokens"]] == [
            tokenizer.decode([token_id]) for token_id in reference.token_ids
        ]
        np.testing.assert_allclose(answer["logprobs"], reference.logprobs, atol=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["segment", "paligemma"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"image": b"this is no image"}, "invalid_image"),
        ({"image": b""}, "invalid_image"),
        ({"image": declared_bomb()}, "image_too_large"),
        ({"prompt": ""}, "invalid_prompt"),
        ({"prompt": "segment ;"}, "invalid_prompt"),
        ({"prompt": "segment a;b;c;d;e;f;g;h;i"}, "invalid_prompt"),
        ({"max_new_tokens": 0}, "invalid_argument"),
    ],
)
def test_bad_requests_are_refused_and_harm_nothing(
    stack: Any, sample_image: bytes, protocol: str, model: str, arguments: dict[str, Any], code: str
) -> None:
    request = {"image": sample_image, "prompt": "segment blue star", **arguments}
    with pytest.raises(InferenceServerException) as refused:
        stack.ask(protocol, model=model, **request)
    assert refused.value.status() == ("400" if protocol == "http" else "StatusCode.INVALID_ARGUMENT")
    assert f"[{code}] " in refused.value.message()
    assert len(stack.ask(protocol, sample_image, "segment blue star")["boxes"]) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_is_not_served(stack: Any, sample_image: bytes, protocol: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        stack.ask(protocol, sample_image, "segment blue star", model_id=b"google/other")
    assert refused.value.status() == ("404" if protocol == "http" else "StatusCode.NOT_FOUND")
    assert "[model_not_allowed] " in refused.value.message()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_missing_input_is_refused_by_triton_itself(stack: Any, sample_image: bytes, protocol: str) -> None:
    client, module = (stack.grpc, "grpc") if protocol == "grpc" else (stack.http, "http")
    library = __import__(f"tritonclient.{module}", fromlist=["InferInput"])
    image = library.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([sample_image], np.object_))
    with pytest.raises(InferenceServerException) as refused:
        client.infer("segment", [image])
    assert refused.value.status() == ("400" if protocol == "http" else "StatusCode.INVALID_ARGUMENT")
    assert len(stack.ask(protocol, sample_image, "segment blue star")["boxes"]) == 1


@pytest.mark.parametrize("model", ["segment", "paligemma"])
def test_a_deadline_is_kept(stack: Any, sample_image: bytes, model: str) -> None:
    """Triton forwards a request's timeout through the ensemble; the engine stops there."""
    with pytest.raises(InferenceServerException) as late:
        stack.ask("grpc", sample_image, "segment blue star", model=model, timeout=1000)
    assert late.value.status() == "StatusCode.CANCELLED"
    assert "[deadline] " in late.value.message()


def test_text_in_any_script_survives(stack: Any, sample_image: bytes) -> None:
    """A label that the answer does not hold comes from the prompt, letter for letter."""
    answer = stack.ask("grpc", sample_image, "segment 蓝色的星 ; étoile", model="paligemma")
    assert [target.decode() for target in answer["targets"]] == ["蓝色的星", "étoile"]
