"""Runs the model for the scheduler: a prefill of one or several prompts, or a decode step for a bucket of rows."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from paligemma_engine.answers.grammar import Grammar
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.device.checked_capture import Output, RehearsedStep, capture_checked
from paligemma_engine.device.compilation import compile_layers, compile_step, unlimited
from paligemma_engine.device.cuda_graph import on_device
from paligemma_engine.device.feature_cache import FeatureCache
from paligemma_engine.device.run_options import SHORT_PROMPT_TOKENS, Compiled, CudaGraphs, RunOptions
from paligemma_engine.device.threads import CpuThreads
from paligemma_engine.device.vision import Vision, VisionThread
from paligemma_engine.layers.compact_layer import compact_layers
from paligemma_engine.layers.replacement import weight_bytes
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.model.attention import use_attention
from paligemma_engine.model.decode_step import DecodeStep, SlotState
from paligemma_engine.model.greedy_head import GreedyHead
from paligemma_engine.model.kv_cache import SlotCache
from paligemma_engine.model.prefill_step import PrefillInputs, PrefillStep
from paligemma_engine.model.rms_norm import ready_norms
from paligemma_engine.model.transfers import ReadBack, RunningStep
from paligemma_engine.model.vision_step import VisionStep
from paligemma_engine.preparation.prompt_tokens import MAX_PROMPT_TOKENS, slot_length, tokenize_prompt
from paligemma_engine.preparation.prompts import split_prompt
from paligemma_engine.requests.prepared import LEVELS, PreparedImage, PreparedPrompt
from paligemma_engine.scheduling.protocol import DeviceLost, StartedVision

ANSWER_TOKENS: Final = 20  # of one object with a mask and a short name

Step = Callable[[], tuple[torch.Tensor, torch.Tensor]]


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
        run_options: RunOptions | None = None,
    ) -> None:
        """Allocates the slots, and builds the decode steps; on a GPU that runs them.

        Args:
            checkpoint: what to run.
            slots: how many sequences can run at once.
            max_new_tokens: the longest answer.
            grammar: whether answers are kept well-formed.
            feature_cache_bytes: how much of the vision tower's output is kept.
            metrics: counts where features came from.
            run_options: how steps are run; None: eagerly.

        Raises:
            ModelFailed: a step cannot be captured, where the options insist on it.
        """
        self._checkpoint = checkpoint
        self._device: torch.device = checkpoint.model.device
        self._grammar = Grammar.build(checkpoint.vocabulary, enabled=grammar)
        self._greedy_head = GreedyHead(checkpoint.model, self._grammar)
        self._cache = SlotCache.allocate(
            checkpoint.model.config.get_text_config(),
            slots=slots,
            max_length=slot_length(checkpoint, max_new_tokens),
            dtype=checkpoint.model.dtype,
            device=self._device,
        )
        self._state = SlotState.allocate(slots, self._device)
        self._run_options = run_options or RunOptions()
        use_attention(checkpoint.model.model.language_model, self._run_options.attention, self._run_options.tiles)
        ready_norms(checkpoint.model.model.language_model)
        if self._run_options.compact:
            compact_layers(checkpoint.model.model.language_model)
        if self._run_options.compiled is Compiled.LAYERS:
            compile_layers(checkpoint.model, self._greedy_head)
        with on_device(self._device):
            captured = self._run_options.cuda_graphs is not CudaGraphs.OFF
            self._capture = self._run_options.make_capture() if captured else None
        self._prefill_rows = min(self._run_options.prefill_rows, slots)
        self._vision_step = VisionStep(checkpoint.model, most=self._prefill_rows).eval()
        self._features = FeatureCache(self._compute_features, max_bytes=feature_cache_bytes)
        self._vision = Vision(self._features, metrics or EngineMetrics())
        self._read_back = ReadBack(slots=slots, steps_ahead=self.steps_ahead, device=self._device)
        self._cpu_threads: CpuThreads | None = None
        if self._device.type == "cpu":
            self._cpu_threads = CpuThreads(weight_bytes(checkpoint.model), vary=self._run_options.compiled is None)
        self._vision_thread = VisionThread(self._vision) if self._run_options.vision_beside else None
        self._positions = [0] * slots  # kept on the host, so that no step waits for the device
        self._inputs = PrefillInputs.allocate(
            checkpoint.model,
            rows=self._prefill_rows,
            image_tokens=checkpoint.image_token_count,
            max_text_tokens=MAX_PROMPT_TOKENS,
        )
        self._prefill_steps: dict[tuple[int, int], Step] = {}
        # The largest first: the memory of its graph serves the others.
        for text_tokens in reversed(self._run_options.prompt_padding):
            self._prefill_step(self._prefill_rows, text_tokens)
        self._run_vision: Callable[[], torch.Tensor] = self._prepare_step(self._vision_step)
        self._row_buckets = self._run_options.row_buckets(slots)
        self._length_buckets = self._run_options.length_buckets(
            self._cache.max_length, prefix=checkpoint.image_token_count
        )
        self._steps = {
            (rows, length): self._prepare_step(
                DecodeStep(
                    checkpoint.model, self._cache, self._state, self._greedy_head, rows=rows, length=length
                ).eval()
            )
            for rows in reversed(self._row_buckets)
            for length in self._length_buckets
        }

    @property
    def slots(self) -> int:
        """How many sequences can run at once."""
        return self._cache.slots

    @property
    def run_options(self) -> RunOptions:
        """How its steps are run."""
        return self._run_options

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a sequence."""
        return self._checkpoint.vocabulary.eos_ids

    @property
    def prefill_rows(self) -> int:
        """How many prompts a prefill takes at most."""
        return self._prefill_rows

    @property
    def looks_ahead(self) -> bool:
        """Whether the vision tower runs beside the steps: where they leave it a core."""
        threads = self._cpu_threads
        return self._run_options.vision_beside and threads is not None and threads.leave_cores

    def start_vision(self, images: Sequence[PreparedImage], *, running: int) -> StartedVision:
        """Starts the vision tower on the pictures of the next prefill, if it looks ahead."""
        if self._vision_thread is None or not self.looks_ahead:
            return self._vision
        return self._vision_thread.start(images, set_threads=lambda: self._set_threads_for(running + len(images)))

    def prefill(self, prompts: Mapping[int, PreparedPrompt], vision: StartedVision, *, running: int) -> RunningStep:
        """Starts to put prompts into free slots, at most `prefill_rows` of them, while so many sequences run."""
        self._set_threads_for(running + len(prompts))
        try:
            return self._prefill(prompts, vision)
        except torch.AcceleratorError as error:  # after it, every call to the GPU fails
            raise DeviceLost(str(error)) from error

    @torch.inference_mode()
    def _prefill(self, prompts: Mapping[int, PreparedPrompt], vision: StartedVision) -> RunningStep:
        image_tokens = self._checkpoint.image_token_count
        with on_device(self._device):
            self._cache.clear(prompts)
            features = vision.features_of([prompt.image for prompt in prompts.values()])
            for row, (slot, prompt) in enumerate(prompts.items()):
                self._inputs.fill(
                    row,
                    features=features[row],
                    text_ids=prompt.input_ids[image_tokens:],
                    slot=slot,
                    grammar_state=self._grammar.start[prompt.asked.task],
                )
                self._positions[slot] = len(prompt.input_ids)
            longest = max(len(prompt.input_ids) for prompt in prompts.values()) - image_tokens
            outputs = self._prefill_step(len(prompts), self._run_options.padded(longest))()
            return self._read_back.start({slot: row for row, slot in enumerate(prompts)}, *outputs)

    def _prefill_step(self, rows: int, text_tokens: int) -> Step:
        if (rows, text_tokens) not in self._prefill_steps:
            model, cache, state, inputs = self._checkpoint.model, self._cache, self._state, self._inputs.first(rows)
            length = self._checkpoint.image_token_count + text_tokens
            step = PrefillStep(model, cache, state, self._greedy_head, inputs, length=length).eval()
            self._prefill_steps[rows, text_tokens] = self._prepare_step(step)
        return self._prefill_steps[rows, text_tokens]

    @property
    def steps_ahead(self) -> int:
        """How many prefills and decode steps may be unread when the next one is started."""
        return self._run_options.steps_ahead

    @torch.inference_mode()
    def decode(self, slots: Collection[int]) -> RunningStep:
        """Starts a step for these occupied slots."""
        self._set_threads_for(len(slots))
        rows = next(rows for rows in self._row_buckets if rows > max(slots))
        # A sequence whose last token has not been read yet may be at the end of its row.
        longest = min(max(self._positions[slot] for slot in slots) + 1, self._cache.max_length)
        length = next(length for length in self._length_buckets if length >= longest)
        for slot in slots:
            self._positions[slot] += 1
        with on_device(self._device):
            return self._read_back.start({slot: slot for slot in slots}, *self._steps[rows, length]())

    def warm_up(self) -> None:
        """Runs everything once, so that no request pays for a first time."""
        size: Any = self._checkpoint.processor.image_processor.size
        height, width = size["height"], size["width"]
        no_pixels = np.zeros((height, width, 3), np.uint8)
        normalized = np.zeros((3, LEVELS), np.float32)
        asked = split_prompt("segment cat")[0]
        input_ids = tokenize_prompt(self._checkpoint, asked)
        prompts = {
            slot: PreparedPrompt(PreparedImage(no_pixels, (height, width), bytes([slot]), normalized), input_ids, asked)
            for slot in range(self._prefill_rows)
        }
        with torch.inference_mode(), on_device(self._device), unlimited():
            for rows in {1, self._prefill_rows}:
                self._prefill({slot: prompts[slot] for slot in range(rows)}, self._vision)
            self._features.clear()
            for text_tokens in self._run_options.prompt_padding:
                self._prefill_step(self._prefill_rows, text_tokens)()
            for rows in self._row_buckets:  # at one length each: with the 3B a step takes half a second on a CPU
                self._steps[rows, self._length_buckets[-1]]()
            if self._cpu_threads is not None:
                self._cpu_threads.calibrate(
                    alone=self._steps[self._row_buckets[0], self._length_buckets[0]], under_load=self._run_full_prefill
                )

    def _run_full_prefill(self) -> None:
        """Runs what as many prompts as a prefill takes cost with all slots in use: the prefill, and decode steps."""
        self._run_vision()
        self._prefill_step(self._prefill_rows, self._run_options.padded(SHORT_PROMPT_TOKENS))()
        for _ in range(math.ceil(ANSWER_TOKENS * self._prefill_rows / self.slots)):
            self._steps[self._row_buckets[-1], self._length_buckets[0]]()

    def _set_threads_for(self, sequences: int) -> None:
        if self._cpu_threads is not None:
            self._cpu_threads.set_for(sequences)

    def _compute_features(self, images: Sequence[PreparedImage]) -> torch.Tensor:
        self._vision_step.load(images)
        return self._run_vision()

    @torch.inference_mode()
    def _prepare_step(self, step: RehearsedStep[Output]) -> Callable[[], Output]:
        """A step as the device wants it; capturing runs it, so no slot may be occupied."""
        if self._run_options.compiled is Compiled.STEPS:
            return compile_step(step)
        if self._capture is None:
            return step
        with on_device(self._device), unlimited():
            return capture_checked(step, self._capture, strict=self._run_options.cuda_graphs is CudaGraphs.ON)
