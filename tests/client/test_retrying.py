"""Pauses between attempts, and the time that they share."""

import pytest

from paligemma_client import (
    ConnectionFailed,
    ServerBusy,
)
from paligemma_client.errors import DeadlineExceeded
from paligemma_client.retrying import Pause, pause_after, persist


def test_pauses_grow_and_have_jitter() -> None:
    error = ConnectionFailed("away")
    pauses = [pause_after(error, attempts) or 0.0 for attempts in range(1, 40)]
    assert all(0.125 <= pause <= 5.0 for pause in pauses)
    assert min(pauses[10:]) >= 2.5
    assert len(set(pauses[10:])) > 20
    assert pause_after(DeadlineExceeded("late"), 1) is None


def test_the_servers_pause_is_added() -> None:
    busy = ServerBusy("overloaded", "", retry_after_s=7.0)
    assert 7.1 <= (pause_after(busy, 1) or 0.0) <= 7.3


def test_all_attempts_share_the_time() -> None:
    now = 0.0
    plan = persist(lambda remaining_s: remaining_s, 10.0, clock=lambda: now)
    given = [next(plan)]
    with pytest.raises(ConnectionFailed):
        while True:
            now += 1.0  # an attempt takes a second
            step = plan.throw(ConnectionFailed("away"))
            while isinstance(step, Pause):
                now += step.seconds
                step = plan.send(None)
            given.append(step)
    assert given[0] == 10.0
    assert given == sorted(given, reverse=True)
    assert 0 < given[-1] < 10 and len(given) > 3
