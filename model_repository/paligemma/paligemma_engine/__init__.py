"""Serves PaliGemma checkpoints: takes images and prompts, returns tokens with log-probabilities.

Imports no Triton module. `startup.start_models` is the entry; torch and transformers are imported only by it.
"""

from paligemma_engine.config import EngineConfig
from paligemma_engine.errors import EngineError
from paligemma_engine.metrics import EngineMetrics
from paligemma_engine.requests.request import Answer, Request
from paligemma_engine.requests.tensors import to_tensors
from paligemma_engine.requests.ticket import Outcome, Ticket
from paligemma_engine.scheduling.engine import Engine

__all__ = [
    "Answer",
    "Engine",
    "EngineConfig",
    "EngineError",
    "EngineMetrics",
    "Outcome",
    "Request",
    "Ticket",
    "to_tensors",
]
