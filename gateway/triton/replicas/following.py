"""Follows the addresses behind a name: pods come and go."""

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
MIN_PAUSE_S: Final = 1.0  # also where a replica failed, which brings the next look-up forward

_log = logging.getLogger(__name__)


async def look_up(name: ServiceName, resolve: Resolve) -> list[str] | None:
    """The replicas' addresses; None where the name server does not say, or knows none.

    Pods of a dual-stack cluster have an address of each family: IPv4 counts, else every pod would be there twice.
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
    """Looks a name up for ever, sooner where `hurry` is set; while there is no answer the last one holds."""
    while True:
        await asyncio.sleep(MIN_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), LOOK_UP_PAUSE_S - MIN_PAUSE_S)
        hurry.clear()
        try:
            addresses = await look_up(name, resolve)
            if addresses is not None:
                on_addresses(addresses)
        except Exception:  # whatever it is: replicas that come later would never be found
            _log.exception("the replicas' name could not be followed")


def _with_port(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"  # noqa: PLR2004
