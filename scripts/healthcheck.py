"""Exits with status 0 if every given URL answers 200; the images' health checks use it.

It connects directly, never through a proxy: Docker passes the host's proxy variables to its containers, and a proxy
cannot reach a container's own address.
"""

import http.client
import sys
from http import HTTPStatus
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


def main() -> int:
    """Returns the exit status."""
    for url in sys.argv[1:]:
        if problem := find_problem(url):
            print(f"{url}: {problem}")
            return 1
    return 0


def find_problem(url: str) -> str | None:
    """Says why a URL is not healthy; None if it answers 200."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", address.path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        connection.close()
    return None if status == HTTPStatus.OK else f"status {status}"


if __name__ == "__main__":
    sys.exit(main())
