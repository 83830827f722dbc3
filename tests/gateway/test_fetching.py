"""Fetching URLs: what is delivered, and above all what is not reached."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import trustme
from addresses import NOT_PUBLIC
from web import CANARY, SITE, Canary, Site, reply, site

from gateway.errors import ApiError
from gateway.fetching import Fetcher
from gateway.fetching.addresses import Address, AddressPolicy
from gateway.fetching.errors import UNREACHABLE
from gateway.fetching.network import Resolver

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


def test_an_image_is_delivered() -> None:
    assert fetch({"/image": reply(b"an image")}) == b"an image"
    assert fetch({"/image": reply(b"an image", content_type="")}) == b"an image"
    assert fetch({"/image": reply(b"x" * LIMIT, content_type="application/octet-stream")}) == b"x" * LIMIT


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


def redirect(location: str, status: str = "302 Found") -> bytes:
    return reply(status=status, location=location)


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
def test_redirects_are_followed(status: str) -> None:
    answers = {"/a/image": redirect("../b", status), "/b": redirect("/c", status), "/c": reply(b"an image")}
    assert fetch(answers, "/a/image") == b"an image"


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


def test_redirects_end() -> None:
    assert "3 times" in refused({"/image": redirect("/image")}).detail
    chain = {f"/{step}": redirect(f"/{step + 1}") for step in range(4)}
    assert fetch({**chain, "/3": reply(b"x")}, "/0") == b"x"
    assert "3 times" in refused({**chain, "/4": reply(b"x")}, "/0").detail


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial", "304 Not Modified", "404 Not Found", "500 Oh"])
def test_other_statuses_are_no_images(status: str) -> None:
    error = refused({"/image": reply(b"" if status[:3] in ("204", "304") else b"x", status=status)})
    assert (error.code, status[:3] in error.detail) == ("fetch_failed", True)


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "text/plain; image/png"])
def test_other_content_types_are_no_images(content_type: str) -> None:
    assert refused({"/image": reply(b"x", content_type=content_type)}).code == "unsupported_media_type"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x"])
def test_nothing_is_unpacked(encoding: str) -> None:
    """So that there are no bombs, and bytes counted are bytes kept."""
    assert refused({"/image": reply(b"x", content_encoding=encoding)}).code == "fetch_failed"


def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    assert refused({"/image": reply(b"", content_length=str(LIMIT + 1))}).code == "image_too_large"


def test_a_body_without_end_is_left() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"100\r\n" + b"x" * 256 + b"\r\n")
            await writer.drain()

    assert refused({"/image": endless}).code == "image_too_large"


def test_a_body_shorter_than_it_says_fails() -> None:
    async def short(writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"x", content_length="10"))
        await writer.drain()

    assert refused({"/image": short}).code == "fetch_failed"


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", reply(content_length="100")])
def test_a_slow_answer_does_not_outlast_the_time(first: bytes) -> None:
    """A byte now and then keeps every timeout of a single read from striking: the whole has its time."""

    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    started = time.monotonic()
    error = refused({"/image": trickle}, timeout_s=0.4)
    assert error.code == "fetch_failed"
    assert time.monotonic() - started < 2.0


def test_a_fetch_that_is_cancelled_is_left_at_once() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    async def run() -> None:
        async with site({"/image": silent}) as served:
            task = asyncio.create_task(fetcher().fetch(served.url(), timeout_s=60.0))
            while not served.heads:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
            assert task.cancelled()

    asyncio.run(run())


@pytest.mark.parametrize(
    "junk", [b"\x00\x01\x02\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000]
)
def test_answers_that_are_not_http(junk: bytes) -> None:
    assert refused({"/image": junk}).code == "fetch_failed"


def test_what_is_sent() -> None:
    """The name as it was given; nothing that tells of us, and no encodings."""

    async def run() -> Site:
        async with site({"/image?q=%C3%B6": reply(b"x")}) as served:
            await fetcher().fetch(served.url("/image?q=ö#fragment"), timeout_s=5.0)
            return served

    served = asyncio.run(run())
    (head,) = served.heads
    assert head.lower() == (
        "get /image?q=%c3%b6 http/1.1\r\n"
        f"host: pictures.test:{served.port}\r\naccept: image/*\r\naccept-encoding: identity\r\n"
        "user-agent: paligemma-gateway\r\n\r\n"
    )


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
