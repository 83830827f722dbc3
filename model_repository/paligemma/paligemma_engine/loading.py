"""Loads a PaliGemma checkpoint with transformers."""

import logging
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoProcessor, PaliGemmaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from paligemma_engine import attention
from paligemma_engine.checkpoint import Checkpoint
from paligemma_engine.config import HUB_CACHE_FOLDER, EngineConfig
from paligemma_engine.errors import ModelFailed
from paligemma_engine.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

_MODEL_TYPE: Final = "paligemma"


def load_checkpoint(config: EngineConfig) -> Checkpoint:
    """Loads `config.model_id`: a folder under the models folder, else a checkpoint of the hub or its local cache.

    Only safetensors are read, and no code that a checkpoint may carry is ever run.

    Raises:
        ModelFailed: it cannot be found, read or served; the message says what to do.
    """
    transformers_logging.disable_progress_bar()
    attention.register()
    folder = config.models_dir / config.model_id
    source = {
        "pretrained_model_name_or_path": str(folder) if folder.is_dir() else config.model_id,
        "cache_dir": str(config.models_dir / HUB_CACHE_FOLDER),
        "token": config.hf_token,
        "trust_remote_code": False,
    }
    try:
        model_type = AutoConfig.from_pretrained(**source).model_type
        if model_type != _MODEL_TYPE:
            raise ModelFailed(f"{config.model_id} is a {model_type} checkpoint; this server serves PaliGemma")
        model = PaliGemmaForConditionalGeneration.from_pretrained(
            **source, dtype=torch_dtype(config), use_safetensors=True
        )
        processor = AutoProcessor.from_pretrained(**source)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFailed(
            f"{config.model_id} cannot be loaded; MODEL_ID must be a folder under {config.models_dir} or a hub id that "
            f"HF_TOKEN may read ({_first_line(error)})"
        ) from error
    model.model.language_model.set_attn_implementation(attention.GROUPED_ATTENTION)
    return _describe(config.model_id, model.to(config.device).eval(), processor)


def torch_dtype(config: EngineConfig) -> torch.dtype:
    """The dtype to load weights in."""
    name = config.dtype
    if name == "auto":
        name = "float32" if config.device == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _describe(model_id: str, model: Any, processor: Any) -> Checkpoint:
    tokenizer = processor.tokenizer
    eos = model.generation_config.eos_token_id
    return Checkpoint(
        model_id=model_id,
        model=model,
        processor=processor,
        vocabulary=Vocabulary.read(
            tokenizer,
            size=model.config.get_text_config().vocab_size,
            eos_ids=frozenset(eos if isinstance(eos, list) else [eos]),
        ),
        steering_ids=frozenset({*tokenizer.all_special_ids, processor.image_token_id} - {tokenizer.unk_token_id}),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
