"""The adapters against their own config.pbtxt: what they read, what they write, and how they refuse."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_fake
from checkpoints import DEMO_MODEL_ID
from stack import wait_until
from triton_fake import Request, TritonError, adapter, answer, check_response, read_config

BOX = [b"<loc0100>", b"<loc0200>", b"<loc0300>", b"<loc0400>"]
INSTANCE = {"model_instance_kind": "CPU", "model_instance_device_id": "0", "model_instance_name": "paligemma_0_0"}


def texts(*values: bytes) -> np.ndarray:
    return np.array(values, np.object_)


@pytest.fixture(scope="module", autouse=True)
def demo_environment(models_dir: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_ID", DEMO_MODEL_ID)
        patch.setenv("MODELS_DIR", str(models_dir))
        patch.delenv("VAE_CHECKPOINT", raising=False)
        yield


@pytest.fixture(scope="module")
def paligemma() -> Iterator[Any]:
    with adapter("paligemma", INSTANCE) as instance:
        yield instance


@pytest.fixture(scope="module")
def token_parser() -> Iterator[Any]:
    with adapter("token_parser") as instance:
        yield instance


@pytest.fixture(scope="module")
def mask_decoder() -> Iterator[Any]:
    with adapter("mask_decoder") as instance:
        yield instance


def ask_paligemma(paligemma: Any, image: bytes, prompt: bytes, **optional: Any) -> Any:
    timeout_us = optional.pop("timeout_us", 0)
    inputs = {"image": texts(image), "prompt": texts(prompt), **optional}
    return answer(paligemma, Request(read_config("paligemma"), inputs, timeout_us=timeout_us))


@pytest.mark.parametrize(
    "prompt", [b"segment blue star ; cyan ring", b"segment red car", b"detect yellow heart", b"caption"]
)
def test_paligemma_writes_what_its_config_says(paligemma: Any, sample_image: bytes, prompt: bytes) -> None:
    response = ask_paligemma(paligemma, sample_image, prompt)
    check_response(read_config("paligemma"), response)
    outputs = response.outputs
    assert len(outputs["tokens"]) == len(outputs["logprobs"]) == len(outputs["sequence"])
    assert len(outputs["targets"]) == len(outputs["finish_reason"]) == (2 if b";" in prompt else 1)
    parts = [
        b"".join(token for token, owner in zip(outputs["tokens"], outputs["sequence"], strict=True) if owner == index)
        for index in range(len(outputs["targets"]))
    ]
    assert outputs["text"][0] == b" ; ".join(parts)


def test_paligemma_reads_its_optional_inputs(paligemma: Any, sample_image: bytes) -> None:
    limit = np.array([5], np.int32)
    response = ask_paligemma(paligemma, sample_image, b"segment blue star", max_new_tokens=limit)
    assert len(response.outputs["tokens"]) == 5
    named = ask_paligemma(paligemma, sample_image, b"segment blue star", model_id=texts(DEMO_MODEL_ID.encode()))
    check_response(read_config("paligemma"), named)


@pytest.mark.parametrize(
    ("request_of", "code", "message"),
    [
        ({"image": b"no image"}, TritonError.INVALID_ARG, "[invalid_image]"),
        ({"image": b"x" * 20_000_001}, TritonError.INVALID_ARG, "[image_too_large]"),
        ({"prompt": b""}, TritonError.INVALID_ARG, "[invalid_prompt]"),
        ({"prompt": b"\xff\xfe"}, TritonError.INVALID_ARG, None),
        ({"max_new_tokens": np.array([0], np.int32)}, TritonError.INVALID_ARG, "[invalid_argument]"),
        ({"model_id": texts(b"a/b")}, TritonError.NOT_FOUND, "[model_not_allowed]"),
        ({"timeout_us": 1}, TritonError.CANCELLED, "[deadline]"),
    ],
)
def test_paligemma_refuses(
    paligemma: Any, sample_image: bytes, request_of: dict[str, Any], code: int, message: str | None
) -> None:
    response = ask_paligemma(paligemma, **{"image": sample_image, "prompt": b"segment blue star", **request_of})
    if message is None:  # bytes that are no text are a strange prompt, and no error
        check_response(read_config("paligemma"), response)
        return
    assert response.error.code == code
    assert response.error.message.startswith(message)


def test_paligemma_sees_that_a_caller_went_away(paligemma: Any, sample_image: bytes) -> None:
    config = read_config("paligemma")
    prompt = texts(b"segment " + b" ; ".join([b"blue star"] * 8))  # long enough to be seen: looks take turns
    gone = [Request(config, {"image": texts(sample_image), "prompt": prompt}) for _ in range(30)]
    for request in gone:
        request.sender.cancelled = True
        assert paligemma.execute([request]) is None
    errors = [request.sender.responses.get(timeout=60).error for request in gone]
    assert errors[-1].code == TritonError.CANCELLED
    assert errors[-1].message.startswith("[cancelled]")


def test_a_sender_is_never_asked_while_or_after_it_answers(paligemma: Any, sample_image: bytes) -> None:
    """Real Triton dies of that: it frees what the sender points to."""
    config = read_config("paligemma")
    prompts = [b"segment blue star", b"", b"segment red car", b"detect cyan ring"] * 25
    requests = [Request(config, {"image": texts(sample_image), "prompt": texts(prompt)}) for prompt in prompts]
    for request in requests:
        paligemma.execute([request])
    for request in requests:
        request.sender.responses.get(timeout=60)
    wait_until(lambda: not paligemma._watcher._watched, 20, "nobody is asked any more")
    assert [misuse for request in requests for misuse in request.sender.misuses] == []


def test_an_answer_that_no_tensors_can_be_made_of_is_an_error(
    paligemma: Any, sample_image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was only logged, and the caller waited for ever."""
    make = triton_fake.Tensor.__init__

    def failing(tensor: triton_fake.Tensor, name: str, array: np.ndarray) -> None:
        if name == "input_image":
            raise RuntimeError("no shared memory is left")
        make(tensor, name, array)

    monkeypatch.setattr(triton_fake.Tensor, "__init__", failing)
    response = ask_paligemma(paligemma, sample_image, b"segment blue star")
    assert response.error.code == TritonError.INTERNAL
    assert response.error.message.startswith("[internal] ")
    monkeypatch.undo()
    check_response(read_config("paligemma"), ask_paligemma(paligemma, sample_image, b"segment blue star"))


def test_a_request_that_cannot_be_read_harms_no_other(paligemma: Any, sample_image: bytes) -> None:
    config = read_config("paligemma")
    inputs = {"image": texts(sample_image), "prompt": texts(b"segment blue star")}
    good, bad = Request(config, inputs), Request(config, {**inputs, "prompt": np.array([], np.object_)})
    paligemma.execute([bad, good])
    assert bad.sender.responses.get(timeout=60).error.message.startswith("[internal] ")
    check_response(config, good.sender.responses.get(timeout=60))


def test_the_watcher_survives_a_sender_that_fails(paligemma: Any, sample_image: bytes) -> None:
    config = read_config("paligemma")
    prompt = texts(b"segment " + b" ; ".join([b"blue star"] * 8))
    requests = [Request(config, {"image": texts(sample_image), "prompt": prompt}) for _ in range(40)]
    failed = threading.Event()

    def fail() -> bool:
        failed.set()
        raise RuntimeError("the server does not answer")

    for request in requests[:10]:
        request.sender.is_cancelled = fail  # type: ignore[method-assign]
    for request in requests[10:]:
        request.sender.cancelled = True
    paligemma.execute(requests)
    errors = [request.sender.responses.get(timeout=60).error for request in requests]
    assert failed.is_set()
    assert errors[-1].code == TritonError.CANCELLED


def test_paligemma_publishes_its_metrics(paligemma: Any, sample_image: bytes) -> None:
    ask_paligemma(paligemma, sample_image, b"segment blue star")
    families = {family.name: family for family in paligemma._publisher._families.values()}

    def answered() -> list[Any]:
        return [series for series in families["paligemma_requests_total"].series if series.labels["outcome"] == "ok"]

    wait_until(lambda: bool(answered()), 20, "the counter is published")
    ok = answered()
    assert sum(ok[0].values) >= 1
    assert ok[0].labels["instance"] == "paligemma_0_0"
    assert families["paligemma_models_loaded"].series[0].values == [1]


def parse(token_parser: Any, tokens: list[bytes], sequence: list[int], *targets: bytes) -> Any:
    inputs = {
        "tokens": texts(*tokens),
        "logprobs": np.full(len(tokens), -0.5, np.float32),
        "sequence": np.array(sequence, np.int32),
        "targets": texts(*targets),
    }
    return answer(token_parser, Request(read_config("token_parser"), inputs))


def test_token_parser_writes_what_its_config_says(token_parser: Any) -> None:
    masked = [*BOX, *[b"<seg001>"] * 16, b" cat"]
    response = parse(token_parser, [*masked, *BOX], [0] * 21 + [1] * 4, b"cat", b"dog")
    check_response(read_config("token_parser"), response)
    outputs = response.outputs
    np.testing.assert_allclose(outputs["boxes"], np.array([[200, 100, 400, 300]] * 2) / 1023, rtol=1e-6)
    assert outputs["labels"].tolist() == [b"cat", b"dog"]
    assert outputs["has_mask"].tolist() == [True, False]
    assert outputs["target"].tolist() == [0, 1]
    assert outputs["codes"].tolist() == [[1] * 16, [-1] * 16]
    np.testing.assert_allclose(outputs["scores"], [[np.exp(-0.5)] * 2, [np.exp(-0.5), 0]], rtol=1e-6)


@pytest.mark.parametrize("tokens", [[], [b"nothing", b" here"]])
def test_token_parser_finds_nothing(token_parser: Any, tokens: list[bytes]) -> None:
    response = parse(token_parser, tokens, [0] * len(tokens), b"cat")
    check_response(read_config("token_parser"), response)
    assert response.outputs["boxes"].shape == (0, 4)


def test_token_parser_refuses_contradictions(token_parser: Any) -> None:
    response = parse(token_parser, BOX, [0, 0, 0, 7], b"cat")
    assert response.error.code == TritonError.INVALID_ARG
    assert response.error.message.startswith("[invalid_argument] ")


@pytest.mark.parametrize("count", [0, 1, 11])
def test_mask_decoder_writes_what_its_config_says(mask_decoder: Any, count: int) -> None:
    request = Request(read_config("mask_decoder"), {"codes": np.zeros((count, 16), np.int32)})
    response = answer(mask_decoder, request)
    check_response(read_config("mask_decoder"), response)
    assert response.outputs["masks"].shape == (count, 64, 64)


def test_mask_decoder_refuses_codes_out_of_range(mask_decoder: Any) -> None:
    response = answer(mask_decoder, Request(read_config("mask_decoder"), {"codes": np.full((1, 16), 128, np.int32)}))
    assert response.error.code == TritonError.INVALID_ARG
    assert response.error.message.startswith("[invalid_argument] ")


def test_the_fake_is_strict() -> None:
    """It would see a misspelt tensor, a wrong type, a missing output."""
    config = read_config("mask_decoder")
    request = Request(config, {"codes": np.zeros((1, 16), np.int32)})
    with pytest.raises(AssertionError, match="no input cods"):
        request.read("cods")
    with pytest.raises(AssertionError):
        Request(config, {"codes": np.zeros((1, 16), np.int64)})
    for outputs in (
        [],
        [triton_fake.Tensor("masks", np.zeros((1, 64, 64)))],
        [triton_fake.Tensor("mask", np.zeros(1))],
    ):
        with pytest.raises(AssertionError):
            check_response(config, triton_fake.InferenceResponse(outputs))
