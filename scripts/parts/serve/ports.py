"""Reads ports from variables, and checks them before anything slow is started."""

import contextlib
import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_PORT: Final = 65535


class PortError(Exception):
    """A port cannot be used; the message names the port and its variable."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port and the variable that sets it."""

    variable: str
    number: int


def read_port(environ: Mapping[str, str], variable: str, default: int) -> Port:
    """Reads a port from the environment; raises PortError if the value is not a port."""
    text = environ.get(variable, "").strip() or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_PORT):
        raise PortError(f"{variable} must be a port between 1 and {MAX_PORT}, not {text!r}")
    return Port(variable, int(text))


def check_ports(host: str, ports: list[Port]) -> None:
    """Raises PortError if a port is in use or given twice."""
    check_distinct(ports)
    for port in ports:
        check_port(host, port)


def check_distinct(ports: list[Port]) -> None:
    """Raises PortError if a port is given twice."""
    seen: dict[int, Port] = {}
    for port in ports:
        if port.number in seen:
            first = seen[port.number].variable
            message = f"port {port.number} is given twice: {first} and {port.variable}; set one of them to another one"
            raise PortError(message)
        seen[port.number] = port


def check_port(host: str, port: Port) -> None:
    """Raises PortError if a port is in use or cannot be used."""
    with socket.socket() as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do, so that connections in TIME_WAIT do not block the port
        try:
            listener.bind((host, port.number))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            problem = "is in use" if taken else f"cannot be used ({error.strerror})"
            raise PortError(f"port {port.number} {problem}; set {port.variable} to another one") from error


def free_ports(host: str, count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as running:
        listeners = [running.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind((host, 0))
        return [int(listener.getsockname()[1]) for listener in listeners]
