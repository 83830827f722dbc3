"""What uvicorn is told."""

from typing import Any

import pytest
import uvicorn

from gateway import __main__
from gateway.triton.client import ANSWER_GRACE_S


def test_what_uvicorn_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that run are waited for until the last of them has its answer; there are no WebSockets."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda _app, **options: told.update(options))
    monkeypatch.setattr(__main__, "configure_logging", lambda: None)
    monkeypatch.setattr(__main__.signal, "signal", lambda *_: None)
    monkeypatch.setenv("REQUEST_TIMEOUT_S", "7.5")
    assert __main__.main() == 0
    assert told["timeout_graceful_shutdown"] >= 7.5 + ANSWER_GRACE_S
    assert told["ws"] == "none"
