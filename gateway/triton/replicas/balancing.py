"""Chooses a replica: the picture's preferred one while loads are even, else the least loaded one."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

# A picture's own replica may have this many times the mean load. A larger value keeps more pictures where their
# features are; a smaller one keeps loads more even. The idea is "consistent hashing with bounded loads" (Mirrokni,
# Thorup, Zadimoghaddam 2016).
LOAD_BOUND: Final = 1.15


def choose(loads: Mapping[str, int], picture: bytes) -> str:
    """Returns the address of the replica for a request.

    Args:
        loads: unanswered requests by address; at least one address.
        picture: identifies the picture. Requests with the same picture prefer the same replica; other replicas that
            come and go do not change that (rendezvous hashing).
    """
    by_preference = sorted(loads, key=lambda address: _rank(address, picture))
    own = by_preference[0]
    mean = (sum(loads.values()) + 1) / len(loads)  # with the new request
    if loads[own] + 1 <= max(1.0, LOAD_BOUND * mean):
        return own
    return min(by_preference, key=lambda address: loads[address])  # the most preferred of the least loaded ones


def _rank(address: str, picture: bytes) -> bytes:
    return blake2b(address.encode(), key=picture, digest_size=8).digest()
