"""Loads a checkpoint, warms it up and starts its engine."""

import os
import time
from collections.abc import Callable

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
    if config.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # the rest is for images, masks and the server
    metrics.set(families.MODELS_LOADING, 1)
    started = time.monotonic()
    checkpoint = load_checkpoint(config)
    runner = ModelRunner(
        checkpoint, slots=config.max_slots, max_new_tokens=config.max_new_tokens, grammar=config.grammar
    )
    runner.warm_up()
    metrics.set(families.MODELS_LOADING, 0)
    metrics.set(families.MODELS_LOADED, 1)
    metrics.set(families.LOAD_SECONDS, time.monotonic() - started)
    return Engine(config, checkpoint, runner, metrics, on_fatal=on_fatal)
