"""Loads a checkpoint, warms it up and starts its engine."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from paligemma_engine import metrics as families
from paligemma_engine.config import EngineConfig
from paligemma_engine.engine import Engine
from paligemma_engine.loading import load_checkpoint
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.runner import ModelRunner


def start_engine(config: EngineConfig, metrics: EngineMetrics, *, on_fatal: Callable[[], None]) -> Engine:
    """Loads the checkpoint, warms it up and starts its engine.

    Args:
        config: settings.
        metrics: collects what happens.
        on_fatal: called after a failure that no request can outlive.

    Raises:
        ModelFailed: the checkpoint cannot be loaded or served.
    """
    torch.set_num_threads(1)  # this thread only loads; the engine thread shall have the cores to itself
    metrics.set(families.MODELS_LOADING, 1)
    started = time.monotonic()
    checkpoint = load_checkpoint(config)
    runner = ModelRunner(
        checkpoint, slots=config.max_slots, max_new_tokens=config.max_new_tokens, grammar=config.grammar
    )
    with ThreadPoolExecutor(1) as pool:  # a thread that ends, and its OpenMP team with it
        pool.submit(runner.warm_up).result()
    metrics.set(families.MODELS_LOADING, 0)
    metrics.set(families.MODELS_LOADED, 1)
    metrics.set(families.LOAD_SECONDS, time.monotonic() - started)
    return Engine(config, checkpoint, runner, metrics, on_fatal=on_fatal)
