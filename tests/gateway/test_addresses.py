"""Which addresses count as public."""

from ipaddress import ip_address, ip_network

import pytest
from addresses import NOT_PUBLIC, PUBLIC

from gateway.fetching.addresses import AddressPolicy, is_public


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not AddressPolicy().is_reachable(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(ip_address(address))


def test_opened_networks() -> None:
    policy = AddressPolicy([ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")])
    for address, reachable in {
        "10.1.2.3": True,
        "::ffff:10.1.2.3": True,
        "10.2.0.1": False,
        "fd00:1::5": True,
        "fd00:2::5": False,
        "8.8.8.8": True,
    }.items():
        assert policy.is_reachable(ip_address(address)) == reachable
    assert not policy.is_opened(ip_address("8.8.8.8"))
