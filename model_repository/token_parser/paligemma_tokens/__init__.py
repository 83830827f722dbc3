"""PaliGemma's location and segmentation tokens: reading answers into objects, and writing them."""

from paligemma_tokens.answer import InvalidTokens, ObjectTensors, parse_answer, to_tensors
from paligemma_tokens.objects import ParsedObject
from paligemma_tokens.parser import parse_sequence
from paligemma_tokens.writer import Form, write_tokens

__all__ = [
    "Form",
    "InvalidTokens",
    "ObjectTensors",
    "ParsedObject",
    "parse_answer",
    "parse_sequence",
    "to_tensors",
    "write_tokens",
]
