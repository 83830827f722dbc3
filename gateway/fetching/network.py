"""Connects to host names through checked addresses only; every fetch goes through here."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable
from threading import Thread
from typing import Final

import httpcore2

from gateway.fetching.addresses import Address, AddressPolicy, parse_address
from gateway.fetching.errors import FetchBlocked, LookupFailed
from gateway.fetching.urls import Origin

PUBLIC_PORTS: Final = frozenset({80, 443, 8080, 8443})  # where the web is; elsewhere are mail, databases, shells
RESOLVE_TIMEOUT_S: Final = 5.0
MAX_LOOKUPS: Final = 64  # at once; a name server that is slow holds each for as long as the system waits for it
CONNECT_TIMEOUT_S: Final = 5.0

Resolve = Callable[[str, int], Awaitable[list[Address]]]


class Resolver:
    """The system's resolver. Each look-up has its own thread, because it cannot be cancelled.

    The threads are daemons, so a look-up that hangs does not keep the process from ending. If so many hang that no
    thread is left, further look-ups are refused immediately.
    """

    def __init__(self, *, max_lookups: int = MAX_LOOKUPS, timeout_s: float = RESOLVE_TIMEOUT_S) -> None:
        self._free = max_lookups
        self._timeout_s = timeout_s

    async def __call__(self, host: str, port: int) -> list[Address]:
        """All addresses of a name.

        Raises:
            OSError or UnicodeError: the name has no address.
            LookupFailed: the name server does not answer, or no thread is left.
        """
        if self._free == 0:
            raise _too_many()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Address]] = loop.create_future()

        def finish(addresses: list[Address] | None, error: Exception | None) -> None:
            self._free += 1
            if answer.done():  # nobody waits any more
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(addresses or [])

        def run() -> None:
            addresses: list[Address] | None = None
            failure: Exception | None = None
            try:
                addresses = _look_up(host, port)
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the application has ended meanwhile
                loop.call_soon_threadsafe(finish, addresses, failure)

        try:
            Thread(target=run, name="resolver", daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            raise _too_many() from error
        self._free -= 1  # `finish` cannot have come before: it is this loop that calls it
        try:
            async with asyncio.timeout(self._timeout_s):
                return await answer
        except TimeoutError as error:
            raise LookupFailed("the name server takes too long; try again later") from error


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """httpcore's network backend: looks a name up once, checks every address, and connects to an address.

    httpcore does TLS with the URL's host, so certificates are checked against the name.
    """

    def __init__(self, resolve: Resolve, policy: AddressPolicy, trusted: Origin | None = None) -> None:
        """`trusted`: a server that the operator names; it may have any address."""
        self._resolve = resolve
        self._policy = policy
        self._trusted = None if trusted is None else (trusted.host, trusted.port)
        self._sockets = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connects to the first address that answers; raises FetchBlocked if any of them is not allowed."""
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
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise LookupFailed("the name server does not answer; try again later") from error
            raise FetchBlocked("unresolvable", host) from error
        except (OSError, UnicodeError) as error:
            raise FetchBlocked("unresolvable", host) from error
        if not addresses:
            raise FetchBlocked("unresolvable", host)
        if (host, port) == self._trusted:
            return addresses
        if not all(self._policy.is_reachable(address) for address in addresses):
            raise FetchBlocked("private", host)
        if port not in PUBLIC_PORTS and not all(self._policy.is_opened(address) for address in addresses):
            raise FetchBlocked("port", host)
        return addresses


def _too_many() -> LookupFailed:
    return LookupFailed("too many look-ups of names are under way; try again later")


def _look_up(host: str, port: int) -> list[Address]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(parse_address(str(sockaddr[0])) for *_, sockaddr in answers))
