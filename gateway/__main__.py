"""`python -m gateway`: serves the application with uvicorn."""

import math
import signal
import sys
from typing import Final

import uvicorn
from pydantic import ValidationError

from gateway.app import create_app
from gateway.dialects.label_studio.routes import PREDICT_TIMEOUT_S
from gateway.door.access import reload_keys
from gateway.door.protocol import GatewayProtocol
from gateway.settings import Settings
from gateway.triton.client import ANSWER_GRACE_S
from gateway.watching.logs import configure_logging

SETTINGS_STATUS: Final = 2  # of a process whose settings cannot work


def main() -> int:
    """Reads the settings, serves until SIGTERM, and lets running requests end; returns the exit status."""
    configure_logging()
    try:
        settings = Settings()
        app = create_app(settings)
    except ValidationError as error:
        for fault in error.errors(include_input=False):
            sys.stderr.write(f"error: {'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}\n")
        return SETTINGS_STATUS
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: API_KEYS_FILE: {error}\n")
        return SETTINGS_STATUS
    signal.signal(signal.SIGHUP, lambda _number, _frame: reload_keys(app))
    uvicorn.run(
        app,
        host=settings.gateway_host,
        port=settings.gateway_port,
        http=GatewayProtocol,
        ws="none",  # no route has them, and none of the protocol's limits would hold
        timeout_keep_alive=settings.keep_alive_timeout_s,
        timeout_graceful_shutdown=math.ceil(drain_s(settings)),
        log_config=None,
        access_log=False,
        server_header=False,
    )
    return 0


def drain_s(settings: Settings) -> float:
    """How long a gateway that stops waits for running requests: as long as the longest may take, and for its answer."""
    longest_s = settings.request_timeout_s
    if settings.label_studio_url is not None:
        longest_s = max(longest_s, PREDICT_TIMEOUT_S)
    return longest_s + ANSWER_GRACE_S


if __name__ == "__main__":
    sys.exit(main())
