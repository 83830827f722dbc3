"""Answers cases with a running server, or with a checkpoint in this process."""

import base64
import io
from pathlib import Path
from typing import Any, Final, Protocol

import httpx2
import numpy as np
from PIL import Image

from paligemma_tokens import parse_sequence, to_tensors
from paligemma_tokens.vocabulary import SEPARATOR
from parts.evaluate.cases import Case
from parts.evaluate.protocol import Answer, Predicted, paste

_TIMEOUT_S: Final = 120.0
_MAX_NEW_TOKENS: Final = 100


class Answerer(Protocol):
    """Answers several cases at once."""

    def ask(self, cases: list[Case]) -> list[Answer]:
        """Returns one answer for each case."""


class Server:
    """A gateway's `/segment`."""

    def __init__(self, url: str, model_id: str | None) -> None:
        """`url`: the gateway's address. `model_id`: None for the server's default model."""
        self._url = url.rstrip("/")
        self._more = {"model_id": model_id} if model_id else {}

    def ask(self, cases: list[Case]) -> list[Answer]:
        """Sends one request after another."""
        return [self._ask(case) for case in cases]

    def _ask(self, case: Case) -> Answer:
        file = io.BytesIO()
        case.image.save(file, "PNG")
        fields = {
            "prompt": case.prompt,
            "mask_format": "full",
            "coordinate_space": "original",
            "return_image": "false",
            **self._more,
        }
        response = httpx2.post(
            f"{self._url}/segment",
            timeout=_TIMEOUT_S,
            data=fields,
            files={"image_file": ("case.png", file.getvalue())},
            trust_env=False,
        )
        response.raise_for_status()
        answer = response.json()
        return Answer(
            without_empty_parts(answer["text"]), [_predicted(found, case.image.size) for found in answer["masks"]]
        )


class Checkpoint:
    """A checkpoint run by transformers' `generate` without the grammar, with the project's parser and mask decoder."""

    def __init__(self, folder: Path, vae: Path) -> None:
        """`folder`: the checkpoint's. `vae`: the file of the mask decoder's weights."""
        import torch  # noqa: PLC0415  # not needed for `Server`
        from transformers import AutoProcessor, PaliGemmaForConditionalGeneration  # noqa: PLC0415

        from mask_vae.vae import MaskVae  # noqa: PLC0415

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype="auto")
        self._model: Any = model.to(self._device).eval()
        self._processor: Any = AutoProcessor.from_pretrained(folder)
        self._vae = MaskVae.load(vae)

    def ask(self, cases: list[Case]) -> list[Answer]:
        """Answers all cases in one batch."""
        inputs = self._processor(
            images=[case.image for case in cases],
            text=[f"<image>{case.prompt}" for case in cases],
            return_tensors="pt",
            padding="longest",
        ).to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        output = self._model.generate(**inputs, do_sample=False, max_new_tokens=_MAX_NEW_TOKENS)
        answered = output[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.tokenizer.batch_decode(answered, skip_special_tokens=True)
        return [self._read(text, case) for text, case in zip(texts, cases, strict=True)]

    def _read(self, text: str, case: Case) -> Answer:
        objects = parse_sequence([text], [0.0])
        raw = self._vae.decode(to_tensors(objects).codes)
        masks = [
            paste(mask, found.box_xyxy, case.image.size) if found.codes else None
            for mask, found in zip(raw, objects, strict=True)
        ]
        return Answer(text, [Predicted(found.box_xyxy, mask) for found, mask in zip(objects, masks, strict=True)])


def without_empty_parts(text: str) -> str:
    """Removes the texts of targets that were not found: the server joins all targets' texts, empty ones included."""
    return SEPARATOR.join(part for part in text.split(SEPARATOR) if part)


def _predicted(found: dict[str, Any], size: tuple[int, int]) -> Predicted:
    box = found["coordinates"]
    scaled = (box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1])
    if found["mask"] is None:
        return Predicted(scaled, None)
    picture = Image.open(io.BytesIO(base64.b64decode(found["mask"])))
    return Predicted(scaled, np.asarray(picture.convert("L")) > 0)
