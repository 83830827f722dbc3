"""Serves a PaliGemma checkpoint: images and prompts in, tokens with log-probabilities out.

Imports nothing of Triton. `startup.start_models` is the way in; torch and transformers are imported by it alone.
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
