"""Follows the addresses of a DNS name, such as that of a headless Service."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Final

from gateway.errors import ApiError
from gateway.fetching.addresses import Address
from gateway.fetching.network import Resolve
from gateway.triton.replicas.addresses import ServiceName

LOOK_UP_PAUSE_S: Final = 5.0
MIN_PAUSE_S: Final = 1.0  # also after a replica's failure, which makes the next look-up come sooner

_log = logging.getLogger(__name__)


async def look_up(name: ServiceName, resolve: Resolve) -> list[str] | None:
    """Returns the replicas' addresses; None if the look-up fails or finds none.

    Pods of a dual-stack cluster have an IPv4 and an IPv6 address. Only IPv4 counts, or each pod would be listed twice.
    """
    try:
        found = await resolve(name.host, name.port)
    except (ApiError, OSError, UnicodeError) as error:
        _log.warning(
            "the replicas' name cannot be looked up", extra={"fields": {"host": name.host, "cause": str(error)}}
        )
        return None
    family = min((address.version for address in found), default=4)
    return sorted({_with_port(address, name.port) for address in found if address.version == family}) or None


async def follow(
    name: ServiceName, resolve: Resolve, on_addresses: Callable[[Iterable[str]], None], hurry: asyncio.Event
) -> None:
    """Looks up a name repeatedly, at once if `hurry` is set. After a failed look-up the last addresses stay."""
    while True:
        await asyncio.sleep(MIN_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), LOOK_UP_PAUSE_S - MIN_PAUSE_S)
        hurry.clear()
        try:
            addresses = await look_up(name, resolve)
            if addresses is not None:
                on_addresses(addresses)
        except Exception:  # any exception: if this task ended, later replicas would never be found
            _log.exception("the replicas' name could not be followed")


def _with_port(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"  # noqa: PLR2004
