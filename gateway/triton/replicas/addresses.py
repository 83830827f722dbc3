"""Where the replicas are, as TRITON_GRPC_URL says."""

from dataclasses import dataclass
from typing import Final

DNS_SCHEME: Final = "dns:///"
MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class ServiceName:
    """A name whose addresses are the replicas, such as a headless Service of Kubernetes; all have the same port."""

    host: str
    port: int


Targets = tuple[str, ...] | ServiceName  # addresses that stay, or a name that is followed


def read_targets(text: str) -> Targets:
    """Reads `host:port`, several of them separated by commas, or `dns:///name:port`.

    Raises:
        ValueError: there is no address, or a name is mixed with addresses or has no port.
    """
    addresses = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not addresses:
        raise ValueError("is empty; give host:port, several with commas, or dns:///name:port")
    if not any(address.startswith(DNS_SCHEME) for address in addresses):
        return addresses
    if len(addresses) > 1:
        raise ValueError(f"mixes a {DNS_SCHEME} name with addresses; give one name, or addresses only")
    host, _, port = addresses[0].removeprefix(DNS_SCHEME).rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT):
        raise ValueError(f"is no {DNS_SCHEME}name:port with a port between 1 and {MAX_PORT}")
    return ServiceName(host, int(port))


def host_of(address: str) -> str:
    """The host of `host:port`; an IPv6 address keeps its brackets, as URLs want it."""
    return address.rpartition(":")[0]
