"""Drawing lots."""

import random


def happens(chance: random.Random, share: float) -> bool:
    """True in so many of all cases, a share in [0, 1]."""
    return chance.random() < share
