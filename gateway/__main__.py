"""`python -m gateway`: serves the application with uvicorn."""

import uvicorn

from gateway.app import create_app
from gateway.settings import Settings


def main() -> None:
    """Reads the settings, serves until SIGTERM, and lets running requests end."""
    settings = Settings()
    uvicorn.run(
        create_app(settings),
        host=settings.gateway_host,
        port=settings.gateway_port,
        timeout_graceful_shutdown=int(settings.request_timeout_s),
        log_level="info",
    )


if __name__ == "__main__":
    main()
