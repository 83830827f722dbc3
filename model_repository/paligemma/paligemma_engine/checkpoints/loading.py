"""Loads a PaliGemma checkpoint with transformers."""

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from paligemma_engine.answers.vocabulary import Vocabulary
from paligemma_engine.checkpoints import quantization
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.checkpoints.dtypes import AUTO, choose_dtype, dtype_warning, require_range
from paligemma_engine.checkpoints.files import CheckpointFiles, is_quantized, stored_dtype, text_model_of
from paligemma_engine.checkpoints.lora import merge
from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import ModelFailed

_log = logging.getLogger(__name__)

# transformers switches weight tying off in its classes, for the whole process, while it loads.
_one_load_at_a_time: Final = threading.Lock()


def load_files(config: EngineConfig, files: CheckpointFiles) -> Checkpoint:
    """Loads a checkpoint, and merges its adapter if it has one.

    Only safetensors are read, and no code of a checkpoint is run. Safe to call from any thread; loads run one at a
    time.

    Raises:
        ModelFailed: they cannot be read or served.
        torch.OutOfMemoryError: they do not fit the GPU.
    """
    transformers_logging.disable_progress_bar()
    try:
        model = _load_model(config, files.folder, files.adapter)
        processor = AutoProcessor.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
        return to_checkpoint(config.model_id, model, processor)
    except (ModelFailed, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # checkpoints fail in many ways; panics of Rust libraries are no Exception
        raise ModelFailed(f"{config.model_id} cannot be loaded ({_first_line(error)})") from error


def _load_model(config: EngineConfig, folder: Path, adapter: Path | None) -> Any:
    """Returns the model on its device, with the adapter merged; quantisation comes after the merge."""
    _check_dtype(config, folder)
    dtype = torch_dtype(config, folder)
    _log.info(
        "%s: stored in %s, computes in %s", config.model_id, stored_dtype(folder), str(dtype).removeprefix("torch.")
    )
    quantized = quantization.arguments(config, folder, dtype=dtype)
    if quantization.is_int8_on_cpu(config, folder):
        plain = _from_pretrained(config, folder, dtype=dtype)
        return quantization.round_to_int8(plain if adapter is None else merge(plain, adapter))
    if adapter is None:
        return _from_pretrained(config, folder, dtype=dtype, **quantized)
    if is_quantized(folder):
        raise ModelFailed(f"{config.model_id} cannot be merged into a base that is quantised; name the original")
    if not quantized:
        return merge(_from_pretrained(config, folder, dtype=dtype), adapter)
    # On the host: before quantisation it may be too large for the device.
    model = merge(_from_pretrained(replace(config, device="cpu"), folder, dtype=dtype), adapter)
    generation_config, state = model.generation_config, model.state_dict()
    quantized_model = _from_pretrained(config, None, dtype=dtype, config=model.config, state_dict=state, **quantized)
    quantized_model.generation_config = generation_config
    return quantized_model


def _from_pretrained(config: EngineConfig, folder: Path | None, /, *, dtype: torch.dtype, **arguments: Any) -> Any:
    settings: dict[str, Any] = {
        "dtype": dtype,
        "device_map": {"": config.device},  # tensors are moved one by one, so the host never holds all of them
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    with _one_load_at_a_time:
        model, report = PaliGemmaForConditionalGeneration.from_pretrained(folder, **settings | arguments)
    # transformers initialises missing weights with random numbers.
    if missing := sorted(report["missing_keys"]):
        raise ModelFailed(f"{config.model_id} lacks weights ({len(missing)}, such as {missing[0]})")
    return model


def _check_dtype(config: EngineConfig, folder: Path) -> None:
    text_model = text_model_of(folder)
    require_range(config.dtype, text_model=text_model)
    if warning := dtype_warning(config.dtype, text_model=text_model, capability=_capability(config)):
        _log.warning("%s: %s", config.model_id, warning)


def torch_dtype(config: EngineConfig, folder: Path | None = None) -> torch.dtype:
    """The dtype to load the weights in `folder` in; on a GPU that does not depend on them.

    Raises:
        ModelFailed: a file cannot be read.
    """
    if config.dtype != AUTO:
        return choose_dtype(config.dtype, capability=None)
    capability = _capability(config)
    stored = stored_dtype(folder) if folder is not None and capability is None else None
    return choose_dtype(AUTO, capability=capability, stored=stored)


def _capability(config: EngineConfig) -> tuple[int, int] | None:
    device = torch.device(config.device)
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def to_checkpoint(model_id: str, model: Any, processor: Any) -> Checkpoint:
    """Returns a checkpoint for a runner from a model on its device.

    Raises:
        ModelFailed: its tokenizer lacks loc or seg tokens.
    """
    model.eval()
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
