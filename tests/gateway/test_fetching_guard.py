"""Fetching URLs: what is not reached, whatever the URL, the names and the redirects say."""

import asyncio
import socket
import ssl
from typing import Any

import pytest
import trustme
from addresses import NOT_PUBLIC
from fetchers import Names, fetcher, refusal, refused
from web import CANARY, SITE, Canary, redirect, reply, site

from gateway.errors import ApiError
from gateway.fetching.addresses import Address, AddressPolicy
from gateway.fetching.errors import UNREACHABLE
from gateway.fetching.network import Resolver


def test_no_address_that_is_not_public_is_reached() -> None:
    """As a literal and as a resolver's answer: all are refused with the same words, and nobody is connected to."""
    canary = Canary()
    reasons: list[str] = []

    async def run() -> set[str]:
        details = set()
        async with canary.listening() as port:
            for text in NOT_PUBLIC:
                literal = f"[{text.replace('%', '%25')}]" if ":" in text else text
                shut = fetcher(Resolver(), policy=AddressPolicy(), blocked=reasons.append)
                details.add((await refusal(shut, f"http://{literal}:{port}/")).detail)
                named = fetcher(Names([text]), policy=AddressPolicy(), blocked=reasons.append)
                details.add((await refusal(named, f"http://pictures.test:{port}/")).detail)
        return details

    assert asyncio.run(run()) == {UNREACHABLE}
    assert set(reasons) <= {"private", "unresolvable"}  # the system may not know an interface's name
    assert reasons.count("private") >= 2 * len(NOT_PUBLIC) - 1
    assert canary.accepted == 0


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f.1", "0x7f000001", "127.1", "0", "localhost", "LOCALHOST", "localhost.", "①②⑦.0.0.1"]
)
def test_no_spelling_of_loopback_is_reached(host: str) -> None:
    canary = Canary()

    async def run() -> ApiError:
        async with canary.listening() as port:
            return await refusal(fetcher(Resolver(), policy=AddressPolicy()), f"http://{host}:{port}/")

    assert asyncio.run(run()).code in ("fetch_failed", "invalid_url")
    assert canary.accepted == 0


def test_one_bad_answer_among_good_ones_is_enough() -> None:
    reasons: list[str] = []
    for answers in (["8.8.8.8", "169.254.169.254"], ["127.0.0.1", "2606:4700:4700::1111"], [SITE, CANARY]):
        error = refused({"/image": reply()}, resolve=Names(answers), blocked=reasons.append)
        assert error.detail == UNREACHABLE
    assert reasons == ["private"] * 3


def test_private_and_unresolvable_are_told_apart_by_the_operator_only() -> None:
    reasons: list[str] = []

    async def unknown(_host: str, _port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    private = refused({}, resolve=Names(["10.0.0.1"]), blocked=reasons.append)
    unresolvable = refused({}, resolve=unknown, blocked=reasons.append)
    nobody = refused({}, resolve=Names([]), blocked=reasons.append)
    port = refused({}, resolve=Names(["8.8.8.8"]), blocked=reasons.append)
    assert len({(error.code, error.detail, error.status) for error in (private, unresolvable, nobody, port)}) == 1
    assert reasons == ["private", "unresolvable", "unresolvable", "port"]


def test_a_record_that_flips_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look-up of the process is seen here: the second one would lead to loopback."""
    canary = Canary()
    asked: list[str] = []

    def flipping(host: Any, port: Any, *_arguments: Any, **_options: Any) -> list[Any]:
        asked.append(host)
        address = SITE if len(asked) == 1 else CANARY
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def run() -> bytes:
        async with site({"/image": reply(b"an image")}) as served, canary.listening(served.port):
            monkeypatch.setattr(socket, "getaddrinfo", flipping)
            try:
                return await fetcher(Resolver()).fetch(served.url(), timeout_s=5.0)
            finally:
                monkeypatch.undo()

    assert asyncio.run(run()) == b"an image"
    assert (asked, canary.accepted) == (["pictures.test"], 0)


def test_redirects_are_checked_as_the_first_url_is() -> None:
    canary = Canary()

    async def run() -> list[str]:
        details = []
        async with canary.listening() as port, site({}) as served:
            for host in (f"{CANARY}:{port}", f"localhost:{port}", f"[::1]:{port}", f"[::ffff:{CANARY}]:{port}"):
                served.answers["/image"] = redirect(f"http://{host}/")
                names = Names([SITE], [CANARY])  # for localhost
                details.append((await refusal(fetcher(names), served.url())).detail)
        return details

    assert asyncio.run(run()) == [UNREACHABLE] * 4
    assert canary.accepted == 0


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "gopher://x/", "http://user@x/", "http://", "http://x:0/", ""]
)
def test_redirects_to_what_is_no_url_for_us(location: str) -> None:
    assert refused({"/image": redirect(location)}).code in ("invalid_url", "fetch_failed")


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = Canary()

    async def run() -> bytes:
        async with canary.listening() as port, site({"/image": reply(b"an image")}) as served:
            for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://{CANARY}:{port}")
            return await fetcher().fetch(served.url(), timeout_s=5.0)

    assert asyncio.run(run()) == b"an image"
    assert canary.accepted == 0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("certified", "trusted", "fetched"),
    [("pictures.test", True, True), ("other.test", True, False), (SITE, True, False), ("pictures.test", False, False)],
)
def test_tls_is_verified_against_the_name(authority: trustme.CA, certified: str, trusted: bool, fetched: bool) -> None:
    """Although the connection goes to an address; and the name is what the server is asked for."""
    server_context, client_context = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    authority.issue_cert(certified).configure_cert(server_context)
    if trusted:
        authority.configure_trust(client_context)
    names: list[str | None] = []
    server_context.sni_callback = lambda _socket, name, _context: names.append(name)  # type: ignore[assignment]

    async def run() -> bytes:
        async with site({"/image": reply(b"an image")}, ssl_context=server_context) as served:
            url = served.url(scheme="https")
            return await fetcher(ssl_context=client_context).fetch(url, timeout_s=5.0)

    if fetched:
        assert asyncio.run(run()) == b"an image"
    else:
        with pytest.raises(ApiError, match="cannot be fetched"):
            asyncio.run(run())
    assert names == ["pictures.test"]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://x/",
        "gopher://x/",
        "//x/",
        "x",
        "",
        "http:",
        "http://",
        "http:///x",
        "http://user@127.0.0.1@x/",
        "http://user:secret@x/",
        "http://127.0.0.1\\@x/",
        "http://127.0.0.1%2f@x/",
        "http://0177.0.0.1/",
        "http://x:0/",
        "http://x:65536/",
        "http://x:-1/",
        "http://x:a/",
        "http://\t127.0.0.1/",
        "http://x/\n",
        "http://[::1/",
        "http://[::1]]/",
        "http://①②⑦.0.0.1/",
        "http://\ud800/",
        "http://x/" + "a" * 100_000,
    ],
)
def test_what_is_not_a_url_is_never_looked_up(url: str) -> None:
    names = Names([SITE])
    error = asyncio.run(refusal(fetcher(names), url))
    assert (error.code, names.asked) == ("invalid_url", 0)
    assert "secret" not in error.detail
