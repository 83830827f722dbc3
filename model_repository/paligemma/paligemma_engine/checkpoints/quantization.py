"""Weights in 8 or 4 bits by bitsandbytes, for checkpoints that do not fit the GPU's memory otherwise."""

import importlib.util
import logging
from pathlib import Path
from typing import Any, Final

import torch
from transformers import BitsAndBytesConfig

from paligemma_engine.checkpoints.files import is_quantized
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import ModelFailed

_LIBRARY: Final = "bitsandbytes"
# Only the text model's layers: they are most of the weights. The head is the embedding, and masks depend on the vision
# tower.
_KEPT: Final = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]


def arguments(config: EngineConfig, folder: Path, *, dtype: torch.dtype) -> dict[str, Any]:
    """Returns further arguments of `from_pretrained` for a quantised load; none for an ordinary one.

    8 bits are LLM.int8 (https://arxiv.org/abs/2208.07339), 4 bits are NF4 (https://arxiv.org/abs/2305.14314). A
    checkpoint that is already quantised is loaded unchanged.

    Args:
        config: settings.
        folder: of the checkpoint.
        dtype: what is computed in.

    Raises:
        ModelFailed: the libraries for it are not installed.
    """
    own = is_quantized(folder)
    if config.quantization == "off" and not own:
        return {}
    if importlib.util.find_spec(_LIBRARY) is None:
        raise ModelFailed(
            f"quantised weights need {_LIBRARY}; install it (pip install --group quantization), or set "
            "QUANTIZATION=off and choose a checkpoint that is not quantised"
        )
    # It would log a line for each layer of each step: that LLM.int8 rounds its input to float16, which is documented.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return {} if own else {"quantization_config": _quantization_config(config.quantization, dtype)}


def _quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_KEPT)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,  # the default is float32
        llm_int8_skip_modules=_KEPT,
    )
