"""How the model's steps are run: what a GPU wants otherwise than a CPU."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import torch

from paligemma_engine.device.cuda_graph import Capture, CapturesSteps
from paligemma_engine.model.attention import FUSED_ATTENTION, GROUPED_ATTENTION
from paligemma_engine.model.fused_tiles import FusedTiles
from paligemma_engine.preparation.prompt_tokens import MAX_PROMPT_TOKENS

SHORT_PROMPT_TOKENS: Final = 32  # most prompts are a few words
LENGTH_STEP: Final = 32
PREFILL_ROWS: Final = 8  # of a small model on the CPU: 8 prompts of the demo model take 6 times as long as one
# Work of a prefill of several prompts: about a third of a second on one core, for which running sequences wait.
PREFILL_FLOPS: Final = 60_000_000_000
PROMPT_PADDING: Final = (SHORT_PROMPT_TOKENS, MAX_PROMPT_TOKENS)


class CudaGraphs(enum.StrEnum):
    """Whether steps on a GPU are captured, so that one launch starts all of their kernels.

    AUTO: where that works; a step whose graph fails or answers differently runs without one.
    ON: always; where one cannot be captured, the model does not start.
    """

    OFF = enum.auto()
    AUTO = enum.auto()
    ON = enum.auto()


class Compiled(enum.Enum):
    """What torch.compile compiles as one function.

    STEPS: each step, of whatever kind. Least time for each call.
    LAYERS: a layer, which then serves all layers of its kind. A small part of the time to compile, but the call of each
        layer costs the host time; a captured step has no such calls.
    """

    STEPS = enum.auto()
    LAYERS = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options that change how fast a step runs, not what it computes. By default steps run eagerly, one by one.

    Attributes:
        steps_ahead: how many prefills and decode steps may be unread when the next one is started. On the CPU nothing
            runs beside the caller.
        prompt_padding: the numbers of text tokens that prompts are padded to; none: each runs at its own length.
        prefill_rows: how many prompts a prefill takes at most; 1 where steps are captured or compiled, for their shapes
            are fixed.
        vision_beside: whether the vision tower may run in a thread beside the other steps, where they leave it a core;
            not where it is captured or compiled.
        compact: whether small layers are replaced by ones with fewer kernels; not where they are captured or compiled.
        row_step: decode steps are built for multiples of so many rows, beside powers of two; None: for powers of two
            only. On the CPU each row takes time; on a GPU hardly any, and each number would be one more graph.
        length_step: decode steps are built for rows seen to a multiple of this beyond the image; None: to their end. On
            the CPU attention over empty positions takes time; on a GPU each length would be one more graph to capture,
            and most positions are the image's anyway.
        cuda_graphs: whether steps are captured.
        make_capture: what captures the steps of one runner.
        compiled: what torch.compile fuses, if anything.
        attention: name of the text model's attention function. The fused one was slower on a CPU; where nothing is
            compiled it writes the scores out, too, and slowly.
        tiles: of the fused attention; None: PyTorch's own.
    """

    steps_ahead: int = 0
    prompt_padding: tuple[int, ...] = ()
    prefill_rows: int = 1
    vision_beside: bool = False
    compact: bool = False
    row_step: int | None = 4
    length_step: int | None = LENGTH_STEP
    cuda_graphs: CudaGraphs = CudaGraphs.OFF
    make_capture: Callable[[], CapturesSteps] = Capture
    compiled: Compiled | None = None
    attention: str = GROUPED_ATTENTION
    tiles: FusedTiles | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what captured and compiled steps cannot do."""
        if self.compiled is None and self.cuda_graphs is CudaGraphs.OFF:
            return
        if self.prefill_rows > 1:
            raise ValueError("captured and compiled prefills take one prompt each")
        if self.vision_beside:
            raise ValueError("captured and compiled steps of the vision tower run in the engine thread")
        if self.compact:
            raise ValueError("captured and compiled steps have transformers' own layers")

    @classmethod
    def on_cpu(cls, *, weight_bytes: int, dtype: torch.dtype, image_tokens: int) -> Self:
        """What suits a model with weights of this size and dtype.

        A large one computes several prompts no faster than one after the other. In bfloat16, PyTorch copies keys and
        values that are a part of their rows: that takes longer than attention over the empty positions.
        """
        # Two operations for each weight and token; the head and the shares of the vision tower are not told apart.
        prompt_flops = 2 * (weight_bytes // dtype.itemsize) * (image_tokens + SHORT_PROMPT_TOKENS)
        return cls(
            prefill_rows=max(1, min(PREFILL_ROWS, PREFILL_FLOPS // max(1, prompt_flops))),
            vision_beside=True,
            compact=True,
            length_step=None if dtype is torch.bfloat16 else LENGTH_STEP,
        )

    @classmethod
    def compiled_on_cpu(cls) -> Self:
        """Few shapes, for each is compiled by itself."""
        return cls(prompt_padding=PROMPT_PADDING, row_step=None, length_step=None, compiled=Compiled.STEPS)

    @classmethod
    def on_gpu(
        cls,
        *,
        cuda_graphs: CudaGraphs = CudaGraphs.AUTO,
        compiled: bool = False,
        fused_attention: bool = True,
        tiles: FusedTiles | None = None,
    ) -> Self:
        """What a GPU wants; attention is fused only where it is compiled, and where it fits."""
        return cls(
            steps_ahead=1,
            prompt_padding=PROMPT_PADDING,
            row_step=None,
            length_step=None,
            cuda_graphs=cuda_graphs,
            compiled=Compiled.LAYERS if compiled else None,
            attention=FUSED_ATTENTION if compiled and fused_attention else GROUPED_ATTENTION,
            tiles=tiles if compiled and fused_attention else None,
        )

    def __str__(self) -> str:
        compiled = f"compiled by {self.compiled.name.lower()}" if self.compiled else "not compiled"
        captured = "not captured" if self.cuda_graphs is CudaGraphs.OFF else "captured"
        tiles = f" (tiles {self.tiles})" if self.tiles else ""
        return f"{self.attention} attention{tiles}, {compiled}, {captured}"

    def row_buckets(self, slots: int) -> list[int]:
        """The numbers of rows that decode steps are built for."""
        powers = {1 << power for power in range(slots.bit_length()) if 1 << power < slots}
        multiples = set() if self.row_step is None else {*range(self.row_step, slots, self.row_step)}
        return sorted({slots, *powers, *multiples})

    def length_buckets(self, max_length: int, *, prefix: int) -> list[int]:
        """The numbers of positions that decode steps are built for; all rows have those of the image, `prefix`."""
        if self.length_step is None:
            return [max_length]
        return [*range(prefix + self.length_step, max_length, self.length_step), max_length]

    def padded(self, text_tokens: int) -> int:
        """How many text tokens a prompt of so many is run with."""
        return next((padded for padded in self.prompt_padding if padded >= text_tokens), text_tokens)
