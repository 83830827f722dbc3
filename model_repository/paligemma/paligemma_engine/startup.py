"""Loads checkpoints, warms them up and starts their engines."""

import dataclasses
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import torch

from paligemma_engine import metrics as families
from paligemma_engine.checkpoints.checkpoint import Checkpoint
from paligemma_engine.checkpoints.files import CheckpointFiles, CheckpointSize, base_of, is_adapter, size_of
from paligemma_engine.checkpoints.hub import find_checkpoint, find_here
from paligemma_engine.checkpoints.loading import load_files
from paligemma_engine.config import EngineConfig
from paligemma_engine.device.compilation import prepare_compiler
from paligemma_engine.device.run_options import CudaGraphs, RunOptions
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.errors import Loading, ModelFailed
from paligemma_engine.layers.packed_linear import can_pack
from paligemma_engine.layers.replacement import pack_linears, weight_bytes
from paligemma_engine.memory.fit import Memory, require_disk
from paligemma_engine.memory.slot_plan import plan_slots, too_large
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.model.fused_tiles import own_tiles_fit, tiles_within
from paligemma_engine.pool.model_pool import MakeRoom, ModelPool
from paligemma_engine.scheduling.engine import Engine

# How long the engine thread waits for the GIL, such as after each operation of a step. Python's default, 5 ms, exceeds
# a decode step.
SWITCH_INTERVAL_S: Final = 0.0005


def start_models(config: EngineConfig, metrics: EngineMetrics, *, on_fatal: Callable[[], None]) -> ModelPool:
    """Starts the engine of `config.model_id`, and a pool that loads other models on demand.

    Args:
        config: settings.
        metrics: collects what happens.
        on_fatal: called after a failure that no request can outlive.

    Raises:
        EngineError: the checkpoint cannot be found, loaded or served.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    pools: list[ModelPool] = []

    def fail() -> None:  # the process ends with the first engine that fails
        for pool in pools:
            pool.fail()
        on_fatal()

    default = start_engine(config, metrics=metrics, on_fatal=fail)
    metrics.set(families.MODELS_LOADED, 1, model_id=config.model_id, dtype=default.dtype)
    # A new loader, since it measures the memory that the default engine has left.
    pools.append(ModelPool(config, default, metrics, loader=CheckpointLoader(config.device, metrics, on_fatal=fail)))
    return pools[0]


def start_engine(config: EngineConfig, *, metrics: EngineMetrics, on_fatal: Callable[[], None]) -> Engine:
    """Finds a checkpoint, loads it, warms it up and starts its engine.

    Args:
        config: settings.
        metrics: collects what happens.
        on_fatal: called after a failure that no request can outlive.

    Raises:
        EngineError: the checkpoint cannot be found, loaded or served.
    """
    return CheckpointLoader(config.device, metrics, on_fatal=on_fatal).start(config)


class CheckpointLoader:
    """The steps from an id to an engine: find the files, download them, load them.

    The memory that is free at its creation is the most that a checkpoint can have.
    """

    def __init__(self, device: str, metrics: EngineMetrics, *, on_fatal: Callable[[], None]) -> None:
        """Measures the free memory.

        Args:
            device: the engines' device.
            metrics: collects what happens.
            on_fatal: called after a failure that no request can outlive.
        """
        self._device = device
        self._metrics = metrics
        self._on_fatal = on_fatal
        self._most = Memory.free(device)

    def start(self, config: EngineConfig) -> Engine:
        """Does all steps; raises EngineError."""
        return self.load(config, self.find_here(config) or self.fetch(config), make_room=lambda _fits: None)

    def find_here(self, config: EngineConfig) -> CheckpointFiles | None:
        """Returns a checkpoint's files, with an adapter's base; None if some must be downloaded; raises EngineError."""
        return _files_of(config, find_here)

    def fetch(self, config: EngineConfig) -> CheckpointFiles:
        """Downloads the missing files of a checkpoint that can fit.

        Raises:
            EngineError: it cannot be downloaded, or does not fit.
        """

        def require_fit(folder: Path, size: CheckpointSize) -> None:
            # Set only here: an invented id must not create a metric series.
            self._metrics.set(families.MODELS_LOADING, 1, model_id=config.model_id)
            require_disk(size, config.models_dir, config.model_id)
            if not is_adapter(folder):  # the next call finds its base
                self._require(config, CheckpointFiles(folder), size)

        try:
            files = _files_of(config, partial(find_checkpoint, on_found=require_fit))
        finally:
            self._metrics.remove(families.MODELS_LOADING, model_id=config.model_id)
        assert files is not None
        return files

    def load(self, config: EngineConfig, files: CheckpointFiles, make_room: MakeRoom) -> Engine:
        """Loads a checkpoint, warms it up and starts its engine.

        Args:
            config: settings.
            files: the checkpoint's folder.
            make_room: called before the checkpoint takes memory, with a function that says whether it fits now.

        Raises:
            EngineError: it cannot be loaded or served, or does not fit.
        """
        torch.set_num_threads(1)  # this thread only loads: the cores belong to the engine thread
        self._metrics.set(families.MODELS_LOADING, 1, model_id=config.model_id)
        try:
            need = self._require(config, files, size_of(files.folder))
            make_room(lambda: need.fits(Memory.free(self._device)))
            if not need.fits(Memory.free(self._device)):  # it fits the hardware, so a later try may find memory
                raise Loading(f"{config.model_id} finds no room in memory now; try again later")
            started = time.monotonic()
            checkpoint = load_files(config, files)
            runner = start_runner(config, checkpoint, self._metrics)
        except torch.OutOfMemoryError as error:
            raise ModelFailed(f"{config.model_id} does not fit the GPU; {too_large()}") from error
        finally:
            self._metrics.remove(families.MODELS_LOADING, model_id=config.model_id)
        self._metrics.set(families.LOAD_SECONDS, time.monotonic() - started)
        return Engine(config, checkpoint, runner, self._metrics, on_fatal=self._on_fatal)

    def _require(self, config: EngineConfig, files: CheckpointFiles, size: CheckpointSize) -> Memory:
        """Returns the memory that a checkpoint needs; raises ModelFailed if it does not fit alone."""
        need = Memory.needed(config, files, size)
        if not need.fits(self._most):
            need.require(self._most.at_least(Memory.free(self._device)), config.model_id)
        return need


def _files_of(config: EngineConfig, find: Callable[[EngineConfig], Path | None]) -> CheckpointFiles | None:
    folder = find(config)
    if folder is None:
        return None
    base = base_of(folder)
    if base is None:
        return CheckpointFiles(folder)
    base_folder = find(dataclasses.replace(config, model_id=base))
    return None if base_folder is None else CheckpointFiles(base_folder, adapter=folder)


def start_runner(config: EngineConfig, checkpoint: Checkpoint, metrics: EngineMetrics) -> ModelRunner:
    """Returns a warmed-up runner for a loaded checkpoint.

    Raises:
        ModelFailed: it does not fit the GPU.
    """
    run_options = _run_options(config, checkpoint)
    if run_options.compiled is None and can_pack(checkpoint.model):
        pack_linears(checkpoint.model)  # before the slots are planned, since it changes what is free
    runner = ModelRunner(
        checkpoint,
        slots=plan_slots(config, checkpoint),
        max_new_tokens=config.max_new_tokens,
        grammar=config.grammar,
        feature_cache_bytes=config.feature_cache_bytes,
        metrics=metrics,
        run_options=run_options,
    )
    with ThreadPoolExecutor(1) as pool:  # when this thread ends, its OpenMP team ends, too
        pool.submit(runner.warm_up).result()
    return runner


def _run_options(config: EngineConfig, checkpoint: Checkpoint) -> RunOptions:
    # Quantised layers may read their input on the host. Neither captured nor compiled graphs allow that.
    graphs_allowed = not checkpoint.is_quantized
    compiled = config.compile and graphs_allowed
    if compiled:
        prepare_compiler()
    device = checkpoint.model.device
    if device.type != "cuda":
        if compiled:
            return RunOptions.compiled_on_cpu()
        return RunOptions.on_cpu(
            weight_bytes=weight_bytes(checkpoint.model),
            dtype=checkpoint.model.dtype,
            image_tokens=checkpoint.image_token_count,
        )
    shared_memory_bytes = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    own_tiles = own_tiles_fit(shared_memory_bytes)
    text_config, itemsize = checkpoint.model.config.get_text_config(), checkpoint.model.dtype.itemsize
    tiles = tiles_within(shared_memory_bytes, head_dim=text_config.head_dim, itemsize=itemsize)
    return RunOptions.on_gpu(
        cuda_graphs=CudaGraphs(config.cuda_graphs) if graphs_allowed else CudaGraphs.OFF,
        compiled=compiled,
        fused_attention=own_tiles or tiles is not None,
        tiles=None if own_tiles else tiles,
    )
