"""Ends with status 0 where every URL given answers 200; the health checks of the images.

It asks the address itself, never a proxy: Docker hands the host's proxy to its containers, and a proxy cannot reach a
container's own address.
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
    """Why a URL does not count as healthy; None where it answers 200."""
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
