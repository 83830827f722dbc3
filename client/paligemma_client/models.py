"""Which models a server has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The answer of `GET /models`.

    Attributes:
        default: answers where a request names no model.
        allowed: patterns of what `model_id` may name beside it.
        loaded: in memory: they answer at once.
        loading: being fetched or loaded.
        dtypes: the number format that each loaded model computes in; several where replicas differ. Empty if the
            server does not say, because it is older.
    """

    default: str
    allowed: Sequence[str]
    loaded: Sequence[str]
    loading: Sequence[str]
    dtypes: Mapping[str, Sequence[str]] = field(default_factory=dict)
