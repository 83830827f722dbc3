"""The dtype that a checkpoint's weights are loaded in, and that its steps are computed in."""

from typing import Final

import torch

from paligemma_engine.errors import ModelFailed

AUTO: Final = "auto"
# Earlier GPUs (V100: 7.0, T4: 7.5) have no bfloat16 arithmetic; PyTorch imitates it there with float32's.
# https://docs.nvidia.com/cuda/cuda-c-programming-guide/#arithmetic-instructions
BFLOAT16_CAPABILITY: Final = (8, 0)
# Hidden states of Gemma 2 exceed float16's largest number, 65,504; those of Gemma, PaliGemma 1's text model, do not.
BEYOND_FLOAT16: Final = frozenset({"gemma2"})


def choose_dtype(name: str, *, text_model: str, capability: tuple[int, int] | None) -> torch.dtype:
    """The dtype for a setting.

    Args:
        name: `auto`, or a dtype's name.
        text_model: transformers' name of the checkpoint's text model, such as `gemma2`.
        capability: the GPU's compute capability; None for the CPU.

    Raises:
        ModelFailed: the text model's numbers do not fit the dtype; says what to set.
    """
    if name == AUTO:
        return torch.bfloat16 if _computes_in_bfloat16(capability) else torch.float32
    if name == "float16" and text_model in BEYOND_FLOAT16:
        raise ModelFailed(
            f"the text model ({text_model}) exceeds float16's range, and would answer nonsense; "
            "set DTYPE=bfloat16, or DTYPE=float32 on a GPU without bfloat16 arithmetic"
        )
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def dtype_warning(name: str, *, text_model: str, capability: tuple[int, int] | None) -> str | None:
    """What an operator should know of the choice on an old GPU; None where there is nothing to know."""
    if capability is None or _computes_in_bfloat16(capability) or name not in (AUTO, "bfloat16"):
        return None
    this_gpu = f"this GPU (compute capability {capability[0]}.{capability[1]}) has no bfloat16 arithmetic"
    if name == "bfloat16":
        return f"{this_gpu}, so that DTYPE=bfloat16 is slow here; set DTYPE=auto if float32 weights fit its memory"
    other = "QUANTIZATION=8bit or 4bit" if text_model in BEYOND_FLOAT16 else "DTYPE=float16"
    return f"{this_gpu}: float32 is used, which takes twice the memory of bfloat16; where that is too much, set {other}"


def _computes_in_bfloat16(capability: tuple[int, int] | None) -> bool:
    return capability is not None and capability >= BFLOAT16_CAPABILITY
