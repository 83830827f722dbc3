"""Weights in 8 or 4 bits, by bitsandbytes on a GPU, for checkpoints that do not fit its memory otherwise.

On a CPU, 8-bit weights are in layers of our own, which are faster than bfloat16; bitsandbytes is several times slower.
"""

import importlib.util
import logging
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from transformers import BitsAndBytesConfig

from paligemma_engine.checkpoints.dtypes import cpu_computes_in_int8
from paligemma_engine.checkpoints.files import is_quantized
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import ModelFailed
from paligemma_engine.layers.int8_linear import Int8Linear
from paligemma_engine.layers.replacement import join_linears, replace_head, replace_linears

_LIBRARY: Final = "bitsandbytes"
# Of bitsandbytes' layers: only the text model's, which are most of the weights. The head is the embedding, and masks
# depend on the vision tower.
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
    if not own and (config.quantization == "off" or is_int8_on_cpu(config, folder)):
        return {}
    if importlib.util.find_spec(_LIBRARY) is None:
        raise ModelFailed(
            f"quantised weights need {_LIBRARY}; install it (pip install --group quantization), or set "
            "QUANTIZATION=off and choose a checkpoint that is not quantised"
        )
    # It would log a line for each layer of each step: that LLM.int8 rounds its input to float16, which is documented.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return {} if own else {"quantization_config": _quantization_config(config.quantization, dtype)}


def is_int8_on_cpu(config: EngineConfig, folder: Path) -> bool:
    """Whether the text model and the head are to be rounded to 8 bits here, once a checkpoint is loaded."""
    on_cpu = torch.device(config.device).type == "cpu"
    return on_cpu and config.quantization == "8bit" and cpu_computes_in_int8() and not is_quantized(folder)


def round_to_int8(model: Any) -> Any:
    """Changes a loaded model, and returns it.

    The head is rounded, too: in bfloat16 it would take as long as half of the text model's layers in 8 bits. Its logits
    are in float32, where different ones stay different. The embedding is not rounded. Where head and embedding share a
    weight that is a view of its file, only the rows that are looked up take memory.
    """
    replace_head(model, partial(Int8Linear, output_dtype=torch.float32))  # the largest; the others are not read yet
    join_linears([model.model.language_model], Int8Linear)
    replace_linears([model.model.language_model], Int8Linear)
    model.is_quantized = True  # as transformers says it of models that it has quantised itself
    return model


def _quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_KEPT)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,  # the default is float32
        llm_int8_skip_modules=_KEPT,
    )
