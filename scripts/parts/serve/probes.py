"""What the supervisor asks its server: whether it is well, and one real inference.

`http.client` goes to the address it is given. urllib would go through the proxy that an environment names, and a proxy
cannot reach this machine's own addresses.
"""

import http.client
import json
import struct
import threading
import time
from base64 import b64decode
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

HEALTH_TIMEOUT_S: Final = 5.0
RETRY_PAUSE_S: Final = 0.5
MODEL: Final = "segment"
PROMPT: Final = b"segment cat"
BUSY: Final = "[overloaded]"  # how the engine's message begins where it serves as many as it can
# 8x8 pixels of gray, PNG.
PICTURE: Final = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADklEQVR4nGNogAIGyhgAgIQgAQ2AJGEAAAAASUVORK5CYII="
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server's HTTP endpoint is."""

    host: str
    port: int

    def is_healthy(self, probe: str) -> bool:
        """Whether `live` or `ready` answers 200."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=HEALTH_TIMEOUT_S)
        try:
            connection.request("GET", f"/v2/health/{probe}")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class FirstRequestFailed(Exception):
    """The first inference was not answered as it should be; the message says how."""


def ask_first_request(address: Address, timeout_s: float) -> "Future[None]":
    """Sends one small request to `segment` from a thread of its own.

    A server that is not available yet, since it loads a model, is asked again until the time is up. One that serves as
    many others as it can has answered: it works.

    Returns:
        A future whose exception, if any, is FirstRequestFailed.
    """
    future: Future[None] = Future()

    def ask() -> None:
        try:
            _ask_until(address, time.monotonic() + timeout_s, timeout_s)
        except FirstRequestFailed as error:
            future.set_exception(error)
        except Exception as error:
            future.set_exception(FirstRequestFailed(f"the first request failed: {type(error).__name__}: {error}"))
        else:
            future.set_result(None)

    threading.Thread(target=ask, name="first-request", daemon=True).start()
    return future


def _ask_until(address: Address, give_up_at: float, timeout_s: float) -> None:
    while True:
        try:
            status, said = _infer(address, max(give_up_at - time.monotonic(), RETRY_PAUSE_S))
        except TimeoutError as error:
            raise FirstRequestFailed(f"the first request was not answered within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise FirstRequestFailed(f"the first request was cut off ({error})") from error
        if status == HTTPStatus.OK or (status == HTTPStatus.SERVICE_UNAVAILABLE and BUSY in said):
            return
        if status != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() >= give_up_at:
            raise FirstRequestFailed(f"the first request failed: {said}")
        time.sleep(RETRY_PAUSE_S)


def _infer(address: Address, timeout_s: float) -> tuple[int, str]:
    """Status and error message of one inference, by Triton's HTTP protocol with binary tensors."""
    head, tensors = _request()
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        connection.request("POST", f"/v2/models/{MODEL}/infer", head + tensors, headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    return response.status, "" if response.status == HTTPStatus.OK else _error_in(body)


def _request() -> tuple[bytes, bytes]:
    """The JSON header, and the tensors behind it; a BYTES element is its length in 4 bytes, then its bytes."""
    values = {"image": PICTURE, "prompt": PROMPT}
    tensors = {name: struct.pack("<I", len(value)) + value for name, value in values.items()}
    inputs: list[dict[str, object]] = [
        {"name": name, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tensor)}}
        for name, tensor in tensors.items()
    ]
    inputs.append({"name": "max_new_tokens", "datatype": "INT32", "shape": [1], "data": [1]})
    return json.dumps({"inputs": inputs, "outputs": [{"name": "text"}]}).encode(), b"".join(tensors.values())


def _error_in(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
