"""Runs the model for the scheduler: one prefill, or one decode step for a bucket of rows."""

from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paligemma_engine.checkpoint import Checkpoint
from paligemma_engine.cpu_threads import CpuThreads
from paligemma_engine.cuda_graph import capture
from paligemma_engine.decode_step import DecodeStep, Picker, SlotState
from paligemma_engine.grammar import Grammar
from paligemma_engine.image_features import ImageFeatures
from paligemma_engine.metrics import IMAGE_FEATURES, EngineMetrics
from paligemma_engine.prepared import PreparedImage, PreparedPrompt
from paligemma_engine.prompt_tokens import slot_length, tokenize_prompt
from paligemma_engine.prompts import split_prompt
from paligemma_engine.read_back import DecodedStep, ReadBack
from paligemma_engine.scheduler import PickedToken
from paligemma_engine.slot_cache import PrefillView, SlotCache

LENGTH_STEP_ON_CPU: Final = 64

Step = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def row_buckets(slots: int) -> list[int]:
    """The row counts that a decode step is built for: powers of two, and all slots."""
    return sorted({slots, *(1 << power for power in range(slots.bit_length()) if 1 << power < slots)})


def length_buckets(max_length: int, *, on_gpu: bool) -> list[int]:
    """The lengths that a decode step is built for.

    On the CPU attention over empty positions is what costs; on a GPU each length would be one more graph to capture,
    and most positions are the image's anyway.
    """
    if on_gpu:
        return [max_length]
    return [*range(LENGTH_STEP_ON_CPU, max_length, LENGTH_STEP_ON_CPU), max_length]


class ModelRunner:
    """A checkpoint with its slots. Not thread-safe: the engine thread owns it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        slots: int,
        max_new_tokens: int,
        grammar: bool,
        feature_cache_bytes: int = 0,
        metrics: EngineMetrics | None = None,
        steps_ahead: int | None = None,
    ) -> None:
        """Allocates the slots, and builds the decode steps; on a GPU that runs them.

        Args:
            checkpoint: what to run.
            slots: how many sequences can run at once.
            max_new_tokens: the longest answer.
            grammar: whether answers are kept well-formed.
            feature_cache_bytes: how much of the vision tower's output is kept.
            metrics: counts where features came from.
            steps_ahead: how many steps may be unread when the next is started; None: 1 on a GPU, 0 on the CPU, where
                nothing runs beside the caller.
        """
        self._checkpoint = checkpoint
        self._features = ImageFeatures(checkpoint.model, max_bytes=feature_cache_bytes)
        self._metrics = metrics or EngineMetrics()
        self._device: torch.device = checkpoint.model.device
        self._dtype: torch.dtype = checkpoint.model.lm_head.weight.dtype
        self._grammar = Grammar.build(checkpoint.vocabulary, enabled=grammar)
        self._picker = Picker(self._grammar).to(self._device)
        self._cache = SlotCache.allocate(
            checkpoint.model.config.get_text_config(),
            slots=slots,
            max_length=slot_length(checkpoint, max_new_tokens),
            dtype=self._dtype,
            device=self._device,
        )
        self._state = SlotState.allocate(slots, self._device)
        if steps_ahead is None:
            steps_ahead = 1 if self._device.type == "cuda" else 0
        self._steps_ahead = steps_ahead
        self._read_back = ReadBack(slots=slots, steps_ahead=steps_ahead, device=self._device)
        self._cpu_threads = CpuThreads() if self._device.type == "cpu" else None
        self._running = 0  # in the newest step
        self._prefill_view = PrefillView(self._cache)
        self._positions = [0] * slots  # the host's copy, so that no step has to wait for the device
        self._row_buckets = row_buckets(slots)
        self._length_buckets = length_buckets(self._cache.max_length, on_gpu=self._device.type == "cuda")
        self._steps = {
            (rows, length): self._build_step(rows, length)
            for rows in self._row_buckets
            for length in self._length_buckets
        }

    @property
    def slots(self) -> int:
        """How many sequences can run at once."""
        return self._cache.slots

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a sequence."""
        return self._checkpoint.vocabulary.eos_ids

    def prefill(self, slot: int, prompt: PreparedPrompt) -> PickedToken:
        """Puts a prompt into a slot, at its own length, and returns its first token."""
        self._metrics.count(IMAGE_FEATURES, source="kept" if prompt.image in self._features else "computed")
        return self._prefill(slot, prompt)

    @torch.inference_mode()
    def _prefill(self, slot: int, prompt: PreparedPrompt) -> PickedToken:
        if self._cpu_threads is not None:
            self._cpu_threads.use_for(self._running + 1)
        input_ids = torch.tensor([prompt.input_ids], device=self._device)
        features = BaseModelOutputWithPooling(pooler_output=self._features.of(prompt.image))
        logits = self._checkpoint.model(
            input_ids=input_ids,
            mm_encoder_outputs={"image": features},
            attention_mask=torch.ones_like(input_ids),
            token_type_ids=torch.zeros_like(input_ids),  # all prefix: without it the prefix would be causal
            past_key_values=self._prefill_view.into(slot),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        start = torch.tensor([self._grammar.start[prompt.asked.task]], device=self._device)
        token_ids, logprobs, grammar_states = self._picker(logits, start)
        self._state.set(slot, token_id=token_ids[0], position=len(prompt.input_ids), grammar_state=grammar_states[0])
        self._positions[slot] = len(prompt.input_ids)
        return PickedToken(int(token_ids[0]), float(logprobs[0]))

    @property
    def steps_ahead(self) -> int:
        """How many steps may be unread when the next one is started."""
        return self._steps_ahead

    @torch.inference_mode()
    def decode(self, slots: Collection[int]) -> DecodedStep:
        """Starts a step for these occupied slots."""
        self._running = len(slots)
        if self._cpu_threads is not None:
            self._cpu_threads.use_for(self._running)
        rows = next(rows for rows in self._row_buckets if rows > max(slots))
        # A sequence whose last token is still unread may stand at the end of its row.
        longest = min(max(self._positions[slot] for slot in slots) + 1, self._cache.max_length)
        length = next(length for length in self._length_buckets if length >= longest)
        step = self._read_back.start(slots, *self._steps[rows, length]())
        for slot in slots:
            self._positions[slot] += 1
        return step

    def warm_up(self) -> None:
        """Runs everything once, so that no request pays for a first time."""
        size: Any = self._checkpoint.processor.image_processor.size
        height, width = size["height"], size["width"]
        no_pixels = np.zeros((3, height, width), np.float32)
        blank = PreparedImage(no_pixels, np.zeros((height, width, 3), np.uint8), (height, width), digest=b"")
        asked = split_prompt("segment cat")[0]
        self._prefill(0, PreparedPrompt(blank, tokenize_prompt(self._checkpoint, asked), asked))
        self._features.clear()
        with torch.inference_mode():
            for step in self._steps.values():
                step()
            if self._cpu_threads is not None:
                self._cpu_threads.calibrate(self._steps[self._row_buckets[0], self._length_buckets[0]])

    @torch.inference_mode()
    def _build_step(self, rows: int, length: int) -> Step:
        model, cache, state = self._checkpoint.model, self._cache, self._state
        step = DecodeStep(model, cache, state, self._picker, rows=rows, length=length).eval()
        # Quantised layers may look at their input on the host, which no graph allows.
        capturable = self._device.type == "cuda" and not self._checkpoint.is_quantized
        return capture(step) if capturable else step
