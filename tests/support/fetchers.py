"""Fetchers for tests: their own idea of names, and SITE as the only address beside the public ones."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from web import SITE, site

from gateway.errors import ApiError
from gateway.fetching import Fetcher
from gateway.fetching.addresses import Address, AddressPolicy

LIMIT = 1000
OPENED = AddressPolicy([ip_network(f"{SITE}/32")])


class Names:
    """A resolver with its own idea of the world; the last answer stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = [[ip_address(text) for text in answer] for answer in answers]
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        try:
            return [ip_address(host)]
        except ValueError:
            return self._answers[min(self.asked, len(self._answers)) - 1]


def fetcher(
    resolve: Any = None,
    *,
    policy: AddressPolicy = OPENED,
    blocked: Callable[[str], None] = lambda _reason: None,
    ssl_context: ssl.SSLContext | None = None,
) -> Fetcher:
    return Fetcher(
        resolve=resolve or Names([SITE]),
        policy=policy,
        max_image_bytes=LIMIT,
        on_blocked=blocked,
        ssl_context=ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )


async def refusal(fetcher: Fetcher, url: str, *, timeout_s: float = 5.0) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await fetcher.fetch(url, timeout_s=timeout_s)
    assert 400 <= refused.value.status < 500
    return refused.value


def fetch(answers: Any, path: str = "/image", **options: Any) -> bytes:
    async def run() -> bytes:
        async with site(answers) as served:
            return await fetcher(**options).fetch(served.url(path), timeout_s=5.0)

    return asyncio.run(run())


def refused(answers: Any, path: str = "/image", *, timeout_s: float = 5.0, **options: Any) -> ApiError:
    async def run() -> ApiError:
        async with site(answers) as served:
            return await refusal(fetcher(**options), served.url(path), timeout_s=timeout_s)

    return asyncio.run(run())
