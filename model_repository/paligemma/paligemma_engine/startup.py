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
from paligemma_engine.checkpoint import Checkpoint
from paligemma_engine.checkpoint_files import base_of, weight_count
from paligemma_engine.compilation import prepare_compiler
from paligemma_engine.config import EngineConfig
from paligemma_engine.engine import Engine
from paligemma_engine.errors import ModelFailed
from paligemma_engine.execution import CudaGraphs, Execution
from paligemma_engine.fused_tiles import own_tiles_fit, tiles_within
from paligemma_engine.hub import find_checkpoint
from paligemma_engine.loading import load_folder, torch_dtype
from paligemma_engine.memory import free_gpu_bytes, release_memory
from paligemma_engine.memory_plan import plan_slots, require_room, too_large
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.model_pool import ModelPool
from paligemma_engine.quantization import is_quantized
from paligemma_engine.runner import ModelRunner

# How long the engine's thread, back from a wait for the device, waits for a thread that runs Python; by default 5 ms,
# longer than a decode step takes.
SWITCH_INTERVAL_ON_GPU_S: Final = 0.0005


def start_models(config: EngineConfig, metrics: EngineMetrics, *, on_fatal: Callable[[], None]) -> ModelPool:
    """Starts the engine of `config.model_id`, and a pool around it that loads others on demand.

    Args:
        config: settings.
        metrics: collects what happens.
        on_fatal: called after a failure that no request can outlive.

    Raises:
        EngineError: the checkpoint cannot be found, loaded or served.
    """
    if config.device != "cpu":
        sys.setswitchinterval(SWITCH_INTERVAL_ON_GPU_S)
    start = partial(start_engine, metrics=metrics, on_fatal=on_fatal)
    default = start(config)
    metrics.set(families.MODELS_LOADED, 1, model_id=config.model_id)
    return ModelPool(config, default, metrics, start=start, release_memory=release_memory)


def start_engine(
    config: EngineConfig,
    make_room: Callable[[], None] = lambda: None,
    *,
    metrics: EngineMetrics,
    on_fatal: Callable[[], None],
) -> Engine:
    """Finds a checkpoint, loads it, warms it up and starts its engine.

    Args:
        config: settings.
        make_room: called when the checkpoint's files are there, before it takes memory.
        metrics: collects what happens.
        on_fatal: called after a failure that no request can outlive.

    Raises:
        EngineError: the checkpoint cannot be found, loaded or served.
    """
    torch.set_num_threads(1)  # this thread only loads; the engine thread shall have the cores to itself

    def report_loading() -> None:
        # Not earlier: a caller who invents ids must not make a series of each.
        metrics.set(families.MODELS_LOADING, 1, model_id=config.model_id)

    try:
        folder = find_checkpoint(config, on_found=report_loading)
        adapter = None
        if base := base_of(folder):
            adapter, folder = folder, find_checkpoint(dataclasses.replace(config, model_id=base))
        make_room()
        started = time.monotonic()
        _require_room(config, folder)
        checkpoint = load_folder(config, folder, adapter)
        runner = start_runner(config, checkpoint, metrics)
    except torch.OutOfMemoryError as error:
        raise ModelFailed(f"{config.model_id} does not fit the GPU; {too_large()}") from error
    finally:
        metrics.remove(families.MODELS_LOADING, model_id=config.model_id)
    metrics.set(families.LOAD_SECONDS, time.monotonic() - started)
    return Engine(config, checkpoint, runner, metrics, on_fatal=on_fatal)


def start_runner(config: EngineConfig, checkpoint: Checkpoint, metrics: EngineMetrics) -> ModelRunner:
    """A runner for a loaded checkpoint, as the settings want it, warmed up.

    Raises:
        ModelFailed: it does not fit the GPU.
    """
    runner = ModelRunner(
        checkpoint,
        slots=plan_slots(config, checkpoint),
        max_new_tokens=config.max_new_tokens,
        grammar=config.grammar,
        feature_cache_bytes=config.feature_cache_bytes,
        metrics=metrics,
        execution=_execution(config, checkpoint),
    )
    with ThreadPoolExecutor(1) as pool:  # a thread that ends, and its OpenMP team with it
        pool.submit(runner.warm_up).result()
    return runner


def _require_room(config: EngineConfig, folder: Path) -> None:
    device = torch.device(config.device)
    if device.type == "cuda" and config.quantization == "off" and not is_quantized(folder):
        require_room(weight_count(folder) * torch_dtype(config).itemsize, free_bytes=free_gpu_bytes(device))


def _execution(config: EngineConfig, checkpoint: Checkpoint) -> Execution:
    # Quantised layers may look at their input on the host, which no graph allows, be it a captured or a compiled one.
    graphs_allowed = not checkpoint.is_quantized
    compiled = config.compile and graphs_allowed
    if compiled:
        prepare_compiler()
    device = checkpoint.model.device
    if device.type != "cuda":
        return Execution.compiled_on_cpu() if compiled else Execution()
    shared_memory_bytes = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    own_tiles = own_tiles_fit(shared_memory_bytes)
    text_config, itemsize = checkpoint.model.config.get_text_config(), checkpoint.model.lm_head.weight.dtype.itemsize
    tiles = tiles_within(shared_memory_bytes, head_dim=text_config.head_dim, itemsize=itemsize)
    return Execution.on_gpu(
        cuda_graphs=CudaGraphs(config.cuda_graphs) if graphs_allowed else CudaGraphs.OFF,
        compiled=compiled,
        fused_attention=own_tiles or tiles is not None,
        tiles=None if own_tiles else tiles,
    )
