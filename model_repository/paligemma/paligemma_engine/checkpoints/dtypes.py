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
# Names in torch.cpu.get_capabilities(): two of x86, one of ARM.
_BFLOAT16_ON_CPU: Final = ("avx512_bf16", "amx_bf16", "bf16")
# They multiply uint8 by int8 and add in int32; without them oneDNN's sums may overflow.
_INT8_ON_CPU: Final = ("avx512_vnni", "avx_vnni", "amx_int8")


def choose_dtype(name: str, *, capability: tuple[int, int] | None, stored: str | None = None) -> torch.dtype:
    """The dtype for a setting.

    Args:
        name: `auto`, or a dtype's name.
        capability: a GPU's compute capability, None for the CPU.
        stored: name of the dtype that the weights are stored in, as far as it is known. On a CPU it decides: weights
            that were stored in float32 are served exactly.
    """
    if name == AUTO:
        on_cpu = capability is None and stored == "bfloat16" and cpu_computes_in_bfloat16()
        return torch.bfloat16 if on_cpu or _computes_in_bfloat16(capability) else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def cpu_computes_in_bfloat16() -> bool:
    """Whether the processor multiplies numbers in bfloat16; others convert them to float32 first, and take longer."""
    return _has_any(_BFLOAT16_ON_CPU)


def cpu_computes_in_int8() -> bool:
    """Whether the processor multiplies whole numbers of 8 bits."""
    return _has_any(_INT8_ON_CPU)


def _has_any(instructions: tuple[str, ...]) -> bool:
    """Without oneDNN (mkldnn is its older name) PyTorch does not use them."""
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in instructions)


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
    """Returns a warning about the dtype on an old device; None if there is none."""
    if capability is None:
        slow = name == "bfloat16" and not cpu_computes_in_bfloat16()
        return (
            "this CPU has no bfloat16 arithmetic, so that DTYPE=bfloat16 is slow here; set DTYPE=auto" if slow else None
        )
    if _computes_in_bfloat16(capability) or name not in (AUTO, "bfloat16"):
        return None
    this_gpu = f"this GPU (compute capability {capability[0]}.{capability[1]}) has no bfloat16 arithmetic"
    if name == "bfloat16":
        return f"{this_gpu}, so that DTYPE=bfloat16 is slow here; set DTYPE=auto if float32 weights fit its memory"
    other = "QUANTIZATION=8bit or 4bit" if text_model in BEYOND_FLOAT16 else "DTYPE=float16"
    return f"{this_gpu}: float32 is used, which takes twice the memory of bfloat16; where that is too much, set {other}"


def _computes_in_bfloat16(capability: tuple[int, int] | None) -> bool:
    return capability is not None and capability >= BFLOAT16_CAPABILITY
