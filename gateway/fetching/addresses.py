"""Decides which addresses a user's URL may reach: the public internet, and networks that the operator has allowed.

The table is our own, because the classification in Python's `ipaddress` changes between patch releases. Its sources are
IANA's special-purpose address registries (RFC 6890 and its successors) and the metadata addresses of cloud providers.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NOT_PUBLIC_IPV4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's WireServer
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

# All addresses that IANA has allocated as global unicast. All others are refused: loopback, embedded IPv4 addresses
# (::a.b.c.d, ::ffff:0:a.b.c.d, NAT64's 64:ff9b::/96 and 64:ff9b:1::/48), local, link-local, site-local, multicast.
GLOBAL_UNICAST_IPV6: Final = IPv6Network("2000::/3")
NOT_PUBLIC_IPV6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: holds an IPv4 address
        "3fff::/20",  # documentation
    )
)


class AddressPolicy:
    """Decides whether an address may be reached."""

    def __init__(self, allowed_networks: Sequence[Network] = ()) -> None:
        """`allowed_networks` may be reached on any port, even if they are not public."""
        self._allowed_networks = tuple(allowed_networks)

    def is_opened(self, address: Address) -> bool:
        """Whether the address is in one of the allowed networks."""
        address = _unwrapped(address)
        return any(address in network for network in self._allowed_networks)

    def is_reachable(self, address: Address) -> bool:
        """Whether the address is public or in an allowed network."""
        return self.is_opened(address) or is_public(address)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet."""
    address = _unwrapped(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_IPV4)
    return address in GLOBAL_UNICAST_IPV6 and not any(address in network for network in NOT_PUBLIC_IPV6)


def parse_address(text: str) -> Address:
    """Parses an address from a resolver, with or without a zone (`fe80::1%eth0`). Raises ValueError."""
    return ip_address(text)


def _unwrapped(address: Address) -> Address:
    """Returns the IPv4 address in ::ffff:a.b.c.d, because the system connects to that; others as they are."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
