"""A stand-in for the reference service. It is written from the description of that service; its source is not here.

    python -m parts.benchmark.reference_service CHECKPOINT VAE PORT [--keep]

One process answers one request at a time: `POST /segment` with a picture and a prompt, as a multipart form. It loads
model and processor again for each request, calls transformers' `generate` (greedy, 100 new tokens at most for each
target), and decodes the masks with a Flax VQ-VAE. With --keep it loads model and processor once.

Where the description says nothing, the stand-in is quick: the mask decoder is loaded and compiled once, and pictures
become PNG by the gateway's encoder. It fetches no URLs and knows one model.
"""

import argparse
import io
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Form, UploadFile
from PIL import Image
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration
from transformers.utils import logging

from gateway.answers.encoding import pixel_coordinates, png_base64, soft_mask
from mask_vae import MaskVae
from paligemma_tokens import ParsedObject, parse_sequence, to_tensors
from parts.benchmark.workload import MAX_NEW_TOKENS, tokens_in_all

HOST: Final = "127.0.0.1"

Loaded = tuple[Any, Any]  # model and processor


class ReferenceService:
    """Answers one request after the other."""

    def __init__(self, checkpoint: Path, vae: MaskVae, *, keep: bool) -> None:
        """Takes a checkpoint's folder and the mask decoder; `keep`: load the checkpoint now, and only once."""
        self._checkpoint, self._vae = checkpoint, vae
        self._kept = self._load() if keep else None

    def segment(self, picture: bytes, prompt: str, max_new_tokens: int) -> dict[str, Any]:
        """The body of an answer: the picture as the model sees it, and each mask with its box in pixels."""
        model, processor = self._kept or self._load()
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        objects = parse_sequence(*_generate(model, processor, image, prompt, max_new_tokens), target=prompt)
        size = processor.image_processor.size
        seen = np.asarray(image.resize((size["width"], size["height"])))
        return {"image": png_base64(seen), "masks": self._masks(objects, height=size["height"], width=size["width"])}

    def _load(self) -> Loaded:
        model: Any = PaliGemmaForConditionalGeneration.from_pretrained(self._checkpoint).eval()
        return model, AutoProcessor.from_pretrained(self._checkpoint)

    def _masks(self, objects: list[ParsedObject], *, height: int, width: int) -> list[dict[str, Any]]:
        found = [each for each in objects if each.codes is not None]
        masks = self._vae.decode(to_tensors(found).codes)
        return [
            {
                "mask": png_base64(soft_mask(mask)),
                "coordinates": pixel_coordinates(each.box_xyxy, width=width, height=height),
            }
            for each, mask in zip(found, masks, strict=True)
        ]


@torch.inference_mode()
def _generate(
    model: Any, processor: Any, image: Image.Image, prompt: str, max_new_tokens: int
) -> tuple[list[str], list[float]]:
    """Texts of the tokens of the answer, and their log-probabilities, which the service does not know."""
    inputs = processor(images=image, text=f"{processor.image_token}{prompt}", return_tensors="pt")
    inputs.pop("labels", None)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    token_ids = output[0, inputs["input_ids"].shape[1] :]
    tokens: list[str] = processor.tokenizer.convert_ids_to_tokens(token_ids.tolist(), skip_special_tokens=True)
    return tokens, [0.0] * len(tokens)


def create_app(service: ReferenceService) -> FastAPI:
    """The service over HTTP."""
    app = FastAPI()

    @app.get("/healthz")
    async def health() -> None:
        """Answers when the service is loaded."""

    # The work blocks the event loop. So there is one request at a time, and always in the same thread: each thread of a
    # pool would have PyTorch's own threads.
    @app.post("/segment")
    async def segment(
        prompt: Annotated[str, Form()],
        image_file: UploadFile,
        max_new_tokens: Annotated[int, Form()] = MAX_NEW_TOKENS,  # random checkpoints do not end their answers
    ) -> dict[str, Any]:
        """Masks and boxes of what the prompt names."""
        return service.segment(await image_file.read(), prompt, tokens_in_all(prompt, max_new_tokens))

    return app


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("vae", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--keep", action="store_true", help="load model and processor once")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    vae = MaskVae.load(arguments.vae)
    vae.warm_up()
    app = create_app(ReferenceService(arguments.checkpoint, vae, keep=arguments.keep))
    uvicorn.run(app, host=HOST, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
