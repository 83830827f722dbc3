"""Drawing lots."""

import random


def happens(chance: random.Random, share: float) -> bool:
    """True with this probability, in [0, 1]."""
    return chance.random() < share
