"""Weights in 8 or 4 bits, by bitsandbytes: for checkpoints that would not fit the GPU's memory otherwise."""

import importlib.util
import logging
from pathlib import Path
from typing import Any, Final

from transformers import BitsAndBytesConfig

from paligemma_engine.checkpoint_files import CONFIG, read_json
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import ModelFailed

_LIBRARIES: Final = ("bitsandbytes", "accelerate")
# The text model's layers are what is large. The head is the embedding, and the picture is where masks come from.
_KEPT: Final = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]


def is_quantized(folder: Path) -> bool:
    """Whether a checkpoint's own weights are quantised already."""
    return "quantization_config" in read_json(folder / CONFIG)


def arguments(config: EngineConfig, folder: Path) -> dict[str, Any]:
    """What `from_pretrained` must be told besides to load a checkpoint quantised; nothing for one as it is.

    8 bits are LLM.int8 (https://arxiv.org/abs/2208.07339), 4 bits are NF4 (https://arxiv.org/abs/2305.14314). A
    checkpoint that is quantised already stays as it is.

    Raises:
        ModelFailed: the libraries for it are not installed.
    """
    own = is_quantized(folder)
    if config.quantization == "off" and not own:
        return {}
    if missing := [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]:
        raise ModelFailed(
            f"quantised weights need {' and '.join(missing)}; install them (pip install --group quantization), "
            "or set QUANTIZATION=off and choose a checkpoint that is not quantised"
        )
    # A line for every layer of every step otherwise: that LLM.int8 rounds its input to float16 first, as is published.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    placed = {"device_map": {"": config.device}}  # quantised weights cannot be moved afterwards
    return placed if own else placed | {"quantization_config": _quantization_config(config.quantization)}


def _quantization_config(quantization: str) -> BitsAndBytesConfig:
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_KEPT)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=_KEPT)
