"""LoRA adapters in PEFT's format: merged into their base when it is loaded, so that they cost nothing afterwards."""

import math
import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from paligemma_engine.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json
from paligemma_engine.errors import ModelFailed

_PREFIX: Final = "base_model.model."  # PEFT wraps twice
_FACTOR: Final = re.compile(rf"{re.escape(_PREFIX)}(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# Names of before transformers 5, and what they became.
_RENAMED: Final = (
    (re.compile(r"^language_model\.model\."), "model.language_model."),
    (re.compile(r"^vision_tower\.(vision_model\.)?"), "model.vision_tower."),
    (re.compile(r"^model\.vision_tower\.vision_model\."), "model.vision_tower."),
    (re.compile(r"^multi_modal_projector\."), "model.multi_modal_projector."),
)
# What changes the formula below; what adds other tensors is seen by their names.
_UNSUPPORTED: Final = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "rank_pattern",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)


@torch.no_grad()
def merge(model: Any, folder: Path) -> None:
    """Adds an adapter's `B @ A * scale` to the weights of the modules that it names.

    Raises:
        ModelFailed: it is of another kind, or does not fit the model; nothing of it is left out silently.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("peft_type") != "LORA" or unsupported:
        kind = ", ".join([str(config.get("peft_type")), *unsupported])
        raise ModelFailed(f"this adapter ({kind}) cannot be merged; plain LoRA can")
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    modules = dict(model.named_modules())
    for name, sides in _factors(folder).items():
        weight = _module(modules, name).weight
        delta = (sides["B"].float() @ sides["A"].float()) * scale
        if delta.shape != weight.shape:
            raise ModelFailed(f"the adapter's {name} does not fit its base")
        weight += delta.to(weight)


def _factors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The two factors of each module."""
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / ADAPTER_WEIGHTS).items():
        found = _FACTOR.fullmatch(key)
        if found is None:
            raise ModelFailed(f"the adapter holds {key}, which cannot be merged; plain LoRA can")
        factors.setdefault(found["module"], {})[found["side"]] = tensor
    if not factors or any(len(sides) != len("AB") for sides in factors.values()):
        raise ModelFailed("the adapter is not complete")
    return factors


def _module(modules: dict[str, torch.nn.Module], name: str) -> torch.nn.Linear:
    names = [name, *(pattern.sub(renamed, name) for pattern, renamed in _RENAMED if pattern.match(name))]
    for each in names:
        if isinstance(module := modules.get(each), torch.nn.Linear):
            return module
    raise ModelFailed(f"the adapter's {name} is nothing in its base; was it trained on another model?")
