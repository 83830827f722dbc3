"""The contract of the model repository: every config.pbtxt against what is promised, and against each other."""

from pathlib import Path
from typing import Any

import pytest
from triton_fake import MODEL_REPOSITORY, read_config
from tritonclient.grpc import model_config_pb2

import paligemma_engine.answers.vocabulary as engine_vocabulary
import paligemma_tokens.vocabulary as parser_vocabulary
from mask_vae import layout, vae

MODELS = ["paligemma", "token_parser", "mask_decoder", "segment"]
REQUEST = {
    "image": ("STRING", [1], False),
    "prompt": ("STRING", [1], False),
    "model_id": ("STRING", [1], True),
    "max_new_tokens": ("INT32", [1], True),
}
INPUTS = {
    "paligemma": REQUEST,
    "token_parser": {
        "tokens": ("STRING", [-1], False),
        "logprobs": ("FP32", [-1], False),
        "sequence": ("INT32", [-1], False),
        "targets": ("STRING", [-1], False),
    },
    "mask_decoder": {"codes": ("INT32", [-1, 16], False)},
    "segment": REQUEST,
}
OUTPUTS = {
    "paligemma": {
        "tokens": ("STRING", [-1]),
        "logprobs": ("FP32", [-1]),
        "sequence": ("INT32", [-1]),
        "targets": ("STRING", [-1]),
        "finish_reason": ("STRING", [-1]),
        "text": ("STRING", [1]),
        "input_image": ("UINT8", [-1, -1, 3]),
        "image_size": ("INT32", [2]),
    },
    "token_parser": {
        "boxes": ("FP32", [-1, 4]),
        "codes": ("INT32", [-1, 16]),
        "labels": ("STRING", [-1]),
        "scores": ("FP32", [-1, 2]),
        "has_mask": ("BOOL", [-1]),
        "target": ("INT32", [-1]),
        "targets": ("STRING", [-1]),
    },
    "mask_decoder": {"masks": ("FP32", [-1, 64, 64])},
    "segment": {
        "text": ("STRING", [1]),
        "boxes": ("FP32", [-1, 4]),
        "masks": ("FP32", [-1, 64, 64]),
        "labels": ("STRING", [-1]),
        "scores": ("FP32", [-1, 2]),
        "has_mask": ("BOOL", [-1]),
        "input_image": ("UINT8", [-1, -1, 3]),
        "image_size": ("INT32", [2]),
        "finish_reason": ("STRING", [-1]),
        "targets": ("STRING", [-1]),
        "target": ("INT32", [-1]),
    },
}


def type_name(tensor: Any) -> str:
    return str(model_config_pb2.DataType.Name(tensor.data_type)).removeprefix("TYPE_")


def shape_of(tensor: Any) -> tuple[str, list[int]]:
    return type_name(tensor), list(tensor.dims)


def test_the_models_are_these() -> None:
    assert sorted(path.name for path in MODEL_REPOSITORY.iterdir()) == sorted(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_inputs_and_outputs(model: str) -> None:
    config = read_config(model)
    assert config.name == model
    assert config.max_batch_size == 0
    assert [(tensor.name, (*shape_of(tensor), tensor.optional)) for tensor in config.input] == list(
        INPUTS[model].items()
    )
    assert [(tensor.name, shape_of(tensor)) for tensor in config.output] == list(OUTPUTS[model].items())


@pytest.mark.parametrize("model", MODELS)
def test_there_is_a_version_folder_that_git_keeps(model: str) -> None:
    version = MODEL_REPOSITORY / model / "1"
    assert (version / ("model.py" if model != "segment" else ".gitkeep")).is_file()


@pytest.mark.parametrize("model", MODELS[:3])
def test_python_models(model: str) -> None:
    config = read_config(model)
    assert config.backend == "python"
    (group,) = config.instance_group
    expected = "KIND_AUTO" if model == "paligemma" else "KIND_CPU"
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == expected


def test_the_ensemble_connects_what_fits() -> None:
    """Every tensor that flows has one source, and the type and shape that its reader expects."""
    ensemble = read_config("segment")
    assert ensemble.platform == "ensemble"
    assert not ensemble.instance_group
    flowing = {tensor.name: shape_of(tensor) for tensor in ensemble.input}
    optional = {tensor.name for tensor in ensemble.input if tensor.optional}
    for step in ensemble.ensemble_scheduling.step:
        assert step.model_version == -1
        member = read_config(step.model_name)
        inputs, outputs = ({each.name: each for each in side} for side in (member.input, member.output))
        assert set(step.input_map) == set(inputs), step.model_name
        assert set(step.output_map) == set(outputs), step.model_name
        for name, source in step.input_map.items():
            assert flowing[source] == shape_of(inputs[name]), (step.model_name, name)
            assert (source in optional) == inputs[name].optional
        for name, destination in step.output_map.items():
            assert destination not in flowing, f"{destination} has two sources"
            flowing[destination] = shape_of(outputs[name])
    for tensor in ensemble.output:
        assert flowing[tensor.name] == shape_of(tensor), tensor.name


@pytest.mark.parametrize(
    "path", sorted(MODEL_REPOSITORY.glob("*/1/model.py")), ids=lambda path: path.parent.parent.name
)
def test_adapters_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("path", sorted(MODEL_REPOSITORY.glob("*/*/*.py")), ids=lambda path: "/".join(path.parts[-3:]))
def test_only_adapters_know_triton_and_no_model_imports_another(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    package = path.parent.name
    assert ("triton_python_backend_utils" in text) <= (package == "1")
    packages = {"paligemma_engine", "paligemma_tokens", "mask_vae"}
    own = {folder.name for folder in path.parent.parent.iterdir() if folder.is_dir()}
    for other in packages - own:
        assert f"import {other}" not in text and f"from {other}" not in text


def test_constants_that_two_packages_need_agree() -> None:
    for name in ("LOC_BINS", "SEG_CODES", "LOCS_PER_BOX", "CODES_PER_MASK"):
        assert getattr(engine_vocabulary, name) == getattr(parser_vocabulary, name)
    assert parser_vocabulary.CODES_PER_MASK == layout.CODES_PER_MASK
    assert parser_vocabulary.SEG_CODES == layout.CODEBOOK_SIZE
    assert parser_vocabulary.NO_CODE == vae.NO_CODE
