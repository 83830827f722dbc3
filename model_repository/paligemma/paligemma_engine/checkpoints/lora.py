"""LoRA adapters: PEFT merges them into their base at load time, so they cost nothing at run time."""

import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from paligemma_engine.checkpoints.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json
from paligemma_engine.errors import ModelFailed

_PREFIX: Final = "base_model.model."  # PEFT's two wrappers
_BASE_LAYER: Final = ".base_layer"  # an adapted embedding or head is saved whole, too
_FACTOR: Final = re.compile(r"(?P<module>.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight|\.bias)?")
# Names before transformers 5, and their new names.
_RENAMED: Final = (
    (re.compile(r"^language_model\.model\."), "model.language_model."),
    (re.compile(r"^language_model\.lm_head\b"), "lm_head"),
    (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), "model.vision_tower."),
    (re.compile(r"^multi_modal_projector\."), "model.multi_modal_projector."),
)
# Features that cannot be expressed by merged weights.
_UNSUPPORTED: Final = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# These leave the base unchanged; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change it before the training.
_INITIALISATIONS: Final = (True, False, "eva", "gaussian", "orthogonal")


def merge(model: Any, folder: Path) -> Any:
    """Merges an adapter in PEFT's format into a model; DoRA, rank patterns and modules saved whole included.

    Args:
        model: PaliGemmaForConditionalGeneration; changed.
        folder: of the adapter.

    Returns:
        The merged model, of the same class.

    Raises:
        ModelFailed: its kind is not supported, or it does not fit the model; no part of it is ignored silently.
    """
    settings = read_json(folder / ADAPTER_CONFIG)
    _require_supported(settings)
    weights = {_PREFIX + _renamed(key.removeprefix(_PREFIX)): value for key, value in _read(folder).items()}
    modules = {_module_of(key.removeprefix(_PREFIX)) for key in weights}
    _require_modules(model, modules)
    try:
        return _merged(model, settings, weights)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:  # what PEFT says where a part does not fit
        raise ModelFailed(f"the adapter does not fit its base ({_brief(error)})") from error


def _require_supported(settings: dict[str, Any]) -> None:
    unsupported = [name for name in _UNSUPPORTED if settings.get(name)]
    if settings.get("peft_type") != "LORA" or unsupported:
        kind = ", ".join([str(settings.get("peft_type")), *unsupported])
        raise ModelFailed(f"this adapter ({kind}) cannot be merged; LoRA, rsLoRA and DoRA can")
    initialisation = settings.get("init_lora_weights", True)
    if initialisation not in _INITIALISATIONS:
        raise ModelFailed(
            f"the adapter's initialisation {initialisation} changed its base, and the change is not in its files; save "
            "it again with PEFT's path_initial_model_for_weight_conversion"
        )


def _read(folder: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(folder / ADAPTER_WEIGHTS)
    except Exception as error:  # safetensors raises many kinds of errors
        raise ModelFailed(f"{ADAPTER_WEIGHTS} cannot be read ({_brief(error)})") from error


def _require_modules(model: Any, names: set[str]) -> None:
    """Raises ModelFailed for a name that is no module of the base, or a module whose weight is shared."""
    modules = dict(model.named_modules())
    if unknown := sorted(names - modules.keys()):
        raise ModelFailed(f"the adapter's {unknown[0]} is nothing in its base; was it trained on another model?")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is not embedding.weight:
        return
    if tied := sorted(name for name in names if modules[name] in (head, embedding)):
        raise ModelFailed(
            f"the adapter's {tied[0]} is tied to another layer of its base, which its training did not change; merge "
            "it into a base with tie_word_embeddings off, and serve that"
        )


def _merged(model: Any, settings: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    import peft  # noqa: PLC0415 - slow to import, and rarely needed

    config = peft.LoraConfig.from_peft_type(**settings)
    config.inference_mode = True
    config.init_lora_weights = True  # the fastest one: its values are overwritten
    # From the tensors' names: patterns for older transformers' names would match nothing.
    factors = (_FACTOR.fullmatch(key.removeprefix(_PREFIX)) for key in weights)
    config.target_modules = {found["module"] for found in factors if found is not None}
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.rank_pattern = {_renamed(name): rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {_renamed(name): alpha for name, alpha in config.alpha_pattern.items()}
    adapted = peft.PeftModel(model, config)
    wanted = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    given = {key for key in weights if _BASE_LAYER not in key}
    if differing := sorted(given - wanted) or sorted(wanted - given):
        raise ModelFailed(f"the adapter does not fit its base ({len(differing)} parts, such as {differing[0]})")
    report: Any = peft.set_peft_model_state_dict(adapted, weights)
    if left_out := report.unexpected_keys:
        raise ModelFailed(f"the adapter does not fit its base ({len(left_out)} parts, such as {left_out[0]})")
    return adapted.merge_and_unload(safe_merge=True)


def _module_of(key: str) -> str:
    """Returns the module of a tensor; a tensor that is not a LoRA factor belongs to a module saved whole."""
    found = _FACTOR.fullmatch(key)
    return found["module"] if found is not None else key.rpartition(".")[0].removesuffix(_BASE_LAYER)


def _renamed(name: str) -> str:
    for pattern, new in _RENAMED:
        name = pattern.sub(new, name)
    return name


def _brief(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
