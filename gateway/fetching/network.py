"""Connects to names by addresses that were checked: the place that no request gets around."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpcore2

from gateway.fetching.addresses import Address, AddressPolicy, parse_address
from gateway.fetching.errors import FetchBlocked

PUBLIC_PORTS: Final = frozenset({80, 443, 8080, 8443})  # where the web is; elsewhere are mail, databases, shells
RESOLVE_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5.0

Resolve = Callable[[str, int], Awaitable[list[Address]]]


class Resolver:
    """The system's resolver in a small pool: a slow name server occupies a few threads and nothing else."""

    def __init__(self, *, threads: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads, "resolver")

    def close(self) -> None:
        """Lets no more look-ups begin."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, host: str, port: int) -> list[Address]:
        """All addresses of a name; raises OSError (TimeoutError, too) or UnicodeError where there are none."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            return await loop.run_in_executor(self._pool, _look_up, host, port)


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """What httpcore connects with: one look-up, every answer checked, then an address and not the name.

    httpcore does TLS with the URL's host by itself, so certificates are checked against the name.
    """

    def __init__(self, resolve: Resolve, policy: AddressPolicy) -> None:
        self._resolve = resolve
        self._policy = policy
        self._sockets = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connects to the first address that answers; raises FetchBlocked where one of them may not be reached."""
        addresses = await self._checked_addresses(host, port)
        connect_timeout_s = min(CONNECT_TIMEOUT_S, timeout or CONNECT_TIMEOUT_S)
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(
                    str(address), port, connect_timeout_s, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        raise FetchBlocked("unreachable", host)

    async def _checked_addresses(self, host: str, port: int) -> list[Address]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise FetchBlocked("unresolvable", host) from error
        if not addresses:
            raise FetchBlocked("unresolvable", host)
        if not all(self._policy.is_reachable(address) for address in addresses):
            raise FetchBlocked("private", host)
        if port not in PUBLIC_PORTS and not all(self._policy.is_opened(address) for address in addresses):
            raise FetchBlocked("port", host)
        return addresses


def _look_up(host: str, port: int) -> list[Address]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(parse_address(str(sockaddr[0])) for *_, sockaddr in answers))
