"""Which models a server has."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The answer of `GET /models`.

    Attributes:
        default: answers where a request names no model.
        allowed: patterns of what `model_id` may name beside it.
        loaded: in memory: they answer at once.
        loading: being fetched or loaded.
    """

    default: str
    allowed: Sequence[str]
    loaded: Sequence[str]
    loading: Sequence[str]
