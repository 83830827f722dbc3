"""Reads the replicas' addresses from TRITON_GRPC_URL."""

import re
from dataclasses import dataclass
from typing import Final

DNS_SCHEME: Final = "dns:///"
UNIX_SCHEME: Final = "unix:"  # gRPC's, for a socket on the same host
MAX_PORT: Final = 65535

_HOST_AND_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^][:/\s]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class ServiceName:
    """A name whose addresses are the replicas, such as a headless Service of Kubernetes; all have the same port."""

    host: str
    port: int


Targets = tuple[str, ...] | ServiceName  # fixed addresses, or a name that is looked up again and again


def read_targets(text: str) -> Targets:
    """Reads `host:port`, several of them separated by commas, or `dns:///name:port`.

    Raises:
        ValueError: there is no address, one has no host or port, or a name is mixed with addresses or has no port.
    """
    addresses = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not addresses:
        raise ValueError("is empty; give host:port, several with commas, or dns:///name:port")
    if not any(address.startswith(DNS_SCHEME) for address in addresses):
        for address in addresses:
            _check(address)
        return addresses
    if len(addresses) > 1:
        raise ValueError(f"mixes a {DNS_SCHEME} name with addresses; give one name, or addresses only")
    host, _, port = addresses[0].removeprefix(DNS_SCHEME).rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT):
        raise ValueError(f"is no {DNS_SCHEME}name:port with a port between 1 and {MAX_PORT}")
    return ServiceName(host, int(port))


def _check(address: str) -> None:
    found = _HOST_AND_PORT.fullmatch(address)
    if not address.startswith(UNIX_SCHEME) and not (found and 1 <= int(found[1]) <= MAX_PORT):
        raise ValueError(
            f"has {address!r}, which is no host:port; give a host without a scheme, an IPv6 address in brackets, "
            f"and a port between 1 and {MAX_PORT}"
        )


def host_of(address: str) -> str:
    """The host of `host:port`; an IPv6 address keeps its brackets, as URLs want it."""
    return address.rpartition(":")[0]
