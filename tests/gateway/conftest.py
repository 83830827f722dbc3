"""When the answers of /segment/stream begin, for tests that must not depend on the machine's speed."""

import pytest

from gateway.routes import stream

NEVER_S = 600.0


@pytest.fixture
def begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with the first target's answer."""
    monkeypatch.setattr(stream, "BEGIN_AFTER_S", NEVER_S)


@pytest.fixture
def begins_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BEGIN_AFTER_S", 0.0)
