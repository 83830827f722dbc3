"""The dtype that a checkpoint's weights are loaded in, and that its steps are computed in."""

from typing import Final

import torch

from paligemma_engine.errors import ModelFailed

AUTO: Final = "auto"
# Earlier GPUs (V100: 7.0, T4: 7.5) have no bfloat16 arithmetic; PyTorch emulates it with float32 there.
# https://docs.nvidia.com/cuda/cuda-c-programming-guide/#arithmetic-instructions
BFLOAT16_CAPABILITY: Final = (8, 0)
# Hidden states of Gemma 2 exceed float16's largest number, 65,504; those of Gemma, PaliGemma 1's text model, do not.
BEYOND_FLOAT16: Final = frozenset({"gemma2"})


def choose_dtype(name: str, *, capability: tuple[int, int] | None) -> torch.dtype:
    """The dtype for a setting, `auto` or a dtype's name, and a GPU's compute capability, None for the CPU."""
    if name == AUTO:
        return torch.bfloat16 if _computes_in_bfloat16(capability) else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def require_range(name: str, *, text_model: str) -> None:
    """Checks a dtype before a load. `text_model` is transformers' name of the text model, such as `gemma2`.

    Raises:
        ModelFailed: the text model's numbers exceed the dtype's range; says what to set.
    """
    if name == "float16" and text_model in BEYOND_FLOAT16:
        raise ModelFailed(
            f"the text model ({text_model}) exceeds float16's range, and would answer nonsense; "
            "set DTYPE=bfloat16, or DTYPE=float32 on a GPU without bfloat16 arithmetic"
        )


def dtype_warning(name: str, *, text_model: str, capability: tuple[int, int] | None) -> str | None:
    """Returns a warning about the dtype on an old GPU; None if there is none."""
    if capability is None or _computes_in_bfloat16(capability) or name not in (AUTO, "bfloat16"):
        return None
    this_gpu = f"this GPU (compute capability {capability[0]}.{capability[1]}) has no bfloat16 arithmetic"
    if name == "bfloat16":
        return f"{this_gpu}, so that DTYPE=bfloat16 is slow here; set DTYPE=auto if float32 weights fit its memory"
    other = "QUANTIZATION=8bit or 4bit" if text_model in BEYOND_FLOAT16 else "DTYPE=float16"
    return f"{this_gpu}: float32 is used, which takes twice the memory of bfloat16; where that is too much, set {other}"


def _computes_in_bfloat16(capability: tuple[int, int] | None) -> bool:
    return capability is not None and capability >= BFLOAT16_CAPABILITY
